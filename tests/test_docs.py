"""What the docs include is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_what_a_page_includes_is_there(page: Path) -> None:
    for file, section in re.findall(r'--8<-- "([^":]+)(?::(\w+))?"', page.read_text()):
        text = (ROOT / file).read_text()
        if section:
            assert f"[start:{section}]" in text, f"{file} has no section {section}"
            assert f"[end:{section}]" in text, f"the section {section} of {file} has no end"


def test_the_readmes_app_runs(tmp_path: Path) -> None:
    import flsim

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "app.py").write_text(code)
    result = flsim.run(tmp_path / "app.py", nodes=20, backend="serial", seed=1, quiet=True)
    assert result.counts["train"].answered == 20
    assert 0 < float(result.metrics[0]["loss"]) < 1
