"""Chinese text cut into words; the dictionary is cached in the scratch folder."""

import logging
import warnings

# Python 3.12 and later say so of its patterns where they compile it anew.
warnings.simplefilter("ignore", SyntaxWarning)

import jieba  # noqa: E402

jieba.setLogLevel(logging.ERROR)
assert "北京" in jieba.lcut("我来到北京清华大学")
