"""A picture drawn, turned, written in four formats and read back."""

import io

from PIL import Image, ImageDraw, ImageFilter, ImageFont

picture = Image.new("RGB", (200, 100), "white")
draw = ImageDraw.Draw(picture)
draw.ellipse((20, 20, 120, 80), fill="red")
draw.text((10, 10), "text", font=ImageFont.load_default(20), fill="black")
picture = picture.rotate(30, expand=True).filter(ImageFilter.GaussianBlur(2)).resize((300, 150))
for form in ("PNG", "JPEG", "WEBP", "TIFF"):
    saved = io.BytesIO()
    picture.save(saved, form)
    again = Image.open(io.BytesIO(saved.getvalue()))
    again.load()
    assert again.size == (300, 150)
