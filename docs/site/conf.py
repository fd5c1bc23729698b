"""The documentation as a site (`make docs`): the same Markdown files that one reads in the repository."""

project, author = "loop2p", "the loop2p developers"
copyright = f"{author}, BSD-3-Clause"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/site/index"
include_patterns = [
    "docs/**.md", "README.md", "CHANGELOG.md", "protocol/SPEC.md", "analysis/README.md", "services/loop2p/*/README.md",
    "deploy/*/README.md",
]  # fmt: skip
exclude_patterns = ["build", ".venv", ".uv", "runs"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "loop2p"
html_copy_source = False
html_show_sphinx = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
pygments_style = "friendly"
suppress_warnings = ["myst.xref_missing"]  # folders are no pages; tests/integration/test_docs.py checks every link
