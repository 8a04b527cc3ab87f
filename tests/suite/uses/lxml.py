"""XPath, a stylesheet, a schema and broken HTML."""

from lxml import etree, html

root = etree.fromstring("<shop><item price='3'>tea</item><item price='9'>cup</item></shop>")
assert root.xpath("//item[@price > 5]/text()") == ["cup"]
sheet = etree.XSLT(
    etree.XML(
        '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
        '<xsl:template match="/"><n><xsl:value-of select="count(//item)"/></n></xsl:template>'
        "</xsl:stylesheet>"
    )
)
assert sheet(root).getroot().text == "2"
assert html.fromstring("<p>one<p>two").xpath("//p[2]/text()") == ["two"]
