"""How results are shown: tables as CSV and text, and the style of the figures."""

from deva_theory.report.style import figure_style, method_label, method_style
from deva_theory.report.tables import (
    ColumnChange,
    Table,
    compare_tables,
    format_table,
    read_csv,
    write_csv,
)

__all__ = [
    "ColumnChange",
    "Table",
    "compare_tables",
    "figure_style",
    "format_table",
    "method_label",
    "method_style",
    "read_csv",
    "write_csv",
]
