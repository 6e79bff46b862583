"""The benchmarks run: each has a quick path of a few seconds."""

from benchmarks import loop


def test_loop_prints_both_speeds_and_their_ratio(capsys):
    loop.main(["--quick", "--model", "vae"])
    name, batch, usual, ours, ratio, *_ = capsys.readouterr().out.splitlines()[-1].split()
    assert (name, batch) == ("vae", "64")
    assert all(float(number.replace(",", "")) > 0 for number in (usual, ours, ratio))
