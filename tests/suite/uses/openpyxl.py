"""A workbook with a formula and a chart, written to a file and read back."""

import tempfile
from pathlib import Path

import openpyxl
from openpyxl.chart import BarChart, Reference

book = openpyxl.Workbook()
sheet = book.active
for row in (["name", "sold"], ["tea", 3], ["cup", 4]):
    sheet.append(row)
sheet["B4"] = "=SUM(B2:B3)"
chart = BarChart()
chart.add_data(Reference(sheet, min_col=2, min_row=1, max_row=3), titles_from_data=True)
sheet.add_chart(chart, "D2")
path = Path(tempfile.gettempdir(), "book.xlsx")
book.save(path)
again = openpyxl.load_workbook(path).active
assert [again["B3"].value, again["B4"].value] == [4, "=SUM(B2:B3)"]
