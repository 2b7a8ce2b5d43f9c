from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_licence_that_the_package_states_is_there_and_ships():
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["license"] == "Apache-2.0" and setup["metadata"]["license_files"] == "LICENSE"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n" in text and "END OF TERMS AND CONDITIONS" in text and len(text) > 11_000
