#!/usr/bin/env bash
# On Linux the default torch wheel is the CUDA build, of several gigabytes. For the CPU build add
# --extra-index-url ADDRESS to pip install: the address is on pytorch.org, under Linux, Pip and CPU.
set -e
apt-get update
apt-get install -y software-properties-common
add-apt-repository -y ppa:deadsnakes/ppa  # Ubuntu 22.04, which is often the default image, has Python 3.10
apt-get install -y python3.12-venv
python3.12 -m venv /autograder/venv
/autograder/venv/bin/pip install -r /autograder/source/requirements.txt
useradd student
chmod -R o= /autograder/source/solution /autograder/source/expected.json.gz
