"""docs/api.md has the tables that the code makes."""

from tests.api_page import PAGE, page


def test_the_tables_are_those_of_the_code() -> None:
    assert PAGE.read_text() == page(), "write them again: python -m tests.api_page"
