from my_logger import Ring

from dsfast.testing import served, started


async def test_debug_lines_come_with_an_error(capsys):
    async with started(Ring, {"size": 2}) as ring:
        ring.debug("A", "forgotten")
        ring.debug("B", "forgotten too")
        ring.get_namespace("PART").debug("C", "kept")
        assert capsys.readouterr() == ("", "")
        ring.error("D", "boom")
        assert capsys.readouterr().err == "PART | C | kept\nD | boom\n"


async def test_in_a_server(capsys):
    async with served({"logLevel": "info"}, logger=Ring):
        pass
    assert "Deepstream started" in capsys.readouterr().out
