"""Chinese text cut into words; the dictionary is cached in the scratch folder."""

import logging

import jieba

jieba.setLogLevel(logging.ERROR)
assert "北京" in jieba.lcut("我来到北京清华大学")
