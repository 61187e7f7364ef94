"""Text of shops without its HTML: tags, entities, scripts and superfluous blanks. Vectorised."""

from __future__ import annotations

import html

import polars as pl

_ENTITY = r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
# Shops escape twice ("&amp;quot;"), hardly ever three times.
_UNESCAPES = 2
# Only the names of HTML are tags: "<Untitled>", "<3" and "5 < 6" are text.
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|q|rp|rt|ruby|s|samp|small|span|strike"
    "|strong|sub|sup|time|tt|u|var|wbr"
)
_BLOCK = (
    "address|applet|area|article|aside|audio|base|blockquote|body|br|button|canvas|caption|center|col|colgroup|dd|dir"
    "|div|dl|dt|embed|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|img"
    "|input|label|legend|li|link|main|map|menu|meta|nav|noframes|noscript|object|ol|optgroup|option|p|param|picture"
    "|pre|script|section|select|source|style|svg|table|tbody|td|template|textarea|tfoot|th|thead|title|tr|ul|video"
)
REPLACEMENTS = (
    (r"(?is)<!--.*?-->", " "),
    (r"(?is)<script\b.*?</script\s*>", " "),
    (r"(?is)<style\b.*?</style\s*>", " "),
    (rf"(?i)</?(?:{_INLINE})(?:\s[^<>]*)?/?>", ""),
    (rf"(?i)</?(?:{_BLOCK})(?:\s[^<>]*)?/?>", " "),
    (r"[\s\x00-\x1f\x7f-\x9f]+", " "),
)


def clean_html(texts: pl.Series) -> pl.Series:
    """
    Plain text in one line: entities decoded (twice, as shops escape twice), scripts, styles, comments and HTML's own
    tags removed (a tag that starts a block leaves a blank), blanks and control characters collapsed.

    Args:
        texts (`pl.Series`): strings (nulls stay), or lists of strings (nulls become empty lists, entries without text
            are left out).
    """
    if texts.dtype == pl.List(pl.String):
        lists = texts.alias("entry").to_frame().with_row_index("row")
        entries = lists.filter(pl.col("entry").list.len() > 0).explode("entry")
        entries = entries.with_columns(clean_html(entries["entry"])).filter(pl.col("entry") != "")
        filled = entries.group_by("row", maintain_order=True).agg("entry")
        cleaned = lists.select("row").join(filled, on="row", how="left", maintain_order="left")["entry"]
        return cleaned.fill_null([]).alias(texts.name)
    for _ in range(_UNESCAPES):
        found = texts.str.extract_all(_ENTITY).explode().unique().drop_nulls().sort().to_list()
        known = {entity: html.unescape(entity) for entity in found}
        known = {entity: text for entity, text in known.items() if text != entity}
        if not known:
            break
        texts = texts.str.replace_many(list(known), list(known.values()))
    for pattern, replacement in REPLACEMENTS:
        texts = texts.str.replace_all(pattern, replacement)
    return texts.str.strip_chars()
