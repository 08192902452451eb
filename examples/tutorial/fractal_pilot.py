"""Process the tokens of the pool: run the input of each as a command, and attach its output and its images.

The command finds a folder of its own in $PICAS_RESULTS. What it leaves there as *.png is attached to the token.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from picas import RunActor, config, connect, console
    from picas.actors import on_end, summary
    from picas.cli.arguments import positive
    from picas.cli.job_output import announce_job, print_end
    from picas.exceptions import PilotStopped, TooManyFailures
    from picas.executers import input_text, run_command
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")


class Painter(RunActor):
    def process_task(self, token: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="fractal-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            try:
                command = ["bash", "-c", input_text(token)]
                result = run_command(command, stdout=out, stderr=err, env={"PICAS_RESULTS": folder}, token=token)
                token["exit_code"] = result.exit_code
            finally:  # after a stop as well: keep the output so far
                for log in (out, err):
                    if log.exists():
                        token.put_log(f"logs_{token.id}.{log.name}", log)
            for image in Path(folder).glob("*.png"):
                token.put_attachment(image.name, image.read_bytes())


def slots(text: str) -> Any:
    return text if text == "auto" else positive(int)(text)


def main() -> None:
    parser = console.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--slots", type=slots, default=1, metavar="N", help="work on N tokens at a time; auto: all cores"
    )
    options = parser.parse_args()
    settings = config.load()
    announce_job(settings)
    painter = Painter(connect(settings))
    on_end(painter, print_end)
    try:
        painter.run(slots=options.slots)
    except (PilotStopped, TooManyFailures):
        print(summary(painter))
        raise
    print(summary(painter))


if __name__ == "__main__":
    console.run_pilot(main)
