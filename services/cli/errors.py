"""What can go wrong at the command line, each with its exit code and the next step to take."""

DONE = 0
REFUSED = 1
WRONG_USE = 2
UNREACHABLE = 3
PARTLY_REFUSED = 4
DRIFTED = 5
INTERRUPTED = 130

EXIT_CODES = {
    DONE: "done",
    REFUSED: "the house refused it; the message says why",
    WRONG_USE: "the command was written wrongly, or a file or setting it names is not usable",
    UNREACHABLE: "a service cannot be reached or is not accepting; nothing is lost, run it again",
    PARTLY_REFUSED: "import finished, but some rows were refused; each is kept with its reason",
    DRIFTED: "verify found something stored otherwise than the log says",
    INTERRUPTED: "interrupted by Ctrl-C; an import goes on where it stopped when run again",
}


class CommandError(Exception):
    """A failure the user can act on: what happened, and what to do next."""

    exit_code = REFUSED

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


class Refused(CommandError):
    """The house answered 4xx. `code` is its stable machine word."""

    def __init__(self, status: int, code: str, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.status, self.code = status, code


class WrongUse(CommandError):
    """The command cannot mean what was written."""

    exit_code = WRONG_USE


class Unreachable(CommandError):
    """No answer, or 503 for longer than we wait."""

    exit_code = UNREACHABLE
