"""A mapped class, stored in a database file and queried."""

import tempfile
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int]


engine = create_engine(f"sqlite:///{Path(tempfile.gettempdir(), 'items.db')}")
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all(Item(price=price) for price in (3, 4))
    session.commit()
    assert session.scalar(select(func.sum(Item.price))) == 7
engine.dispose()
