"""A page searched by selector, through both parsers."""

from bs4 import BeautifulSoup

PAGE = "<ul><li class='a'>one<li>two</ul><a href='/x'>link</a>"
for parser in ("html.parser", "lxml"):
    soup = BeautifulSoup(PAGE, parser)
    assert soup.select_one("li.a").get_text().startswith("one")
    assert soup.a["href"] == "/x"
