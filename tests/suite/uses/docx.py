"""A document with a heading and a table, written and read back."""

import io

import docx

document = docx.Document()
document.add_heading("Title", 1)
document.add_table(2, 2).cell(1, 1).text = "cell"
saved = io.BytesIO()
document.save(saved)
again = docx.Document(io.BytesIO(saved.getvalue()))
assert again.paragraphs[0].text == "Title"
assert again.tables[0].cell(1, 1).text == "cell"
