"""What a published dataset's files are called."""

import re

CARD, REPORT, PAGE, STATISTICS = "README.md", "report.json", "report.html", "statistics.json"
#: The folder that holds the rows, a folder for each configuration.
DATA = "data"
FIGURES, SCORES = "figures", "scores"
#: Where a finished build notes its files and their sha256.
FINISHED = "work/finished.json"


def check_configuration(name: object, remedy: str) -> None:
    """Checks that a category can name a configuration, and with it a folder.

    Raises:
        ValueError: It cannot; says what can, and the remedy.
    """
    # as long as a file system's names may be, in any script
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > 200:
        raise ValueError(
            f"the category {name!r} cannot name a configuration: it must be letters, digits, _, . and - only; {remedy}"
        )
