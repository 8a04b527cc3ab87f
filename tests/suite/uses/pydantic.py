"""A model that takes what is right and tells what is wrong."""

import datetime

from pydantic import BaseModel, Field, ValidationError


class Order(BaseModel):
    number: int = Field(gt=0)
    when: datetime.datetime
    items: list[str] = []


order = Order.model_validate_json('{"number": "3", "when": "2026-01-02T03:04:05Z"}')
assert order.number == 3
assert order.when.year == 2026
wrong = 0
try:
    Order(number=0, when="never")
except ValidationError as error:
    wrong = error.error_count()
assert wrong == 2
