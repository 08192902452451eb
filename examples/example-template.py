"""The smallest actor: copy this file, and write your own work into process_task."""

import sys

try:
    from picas import RunActor, connect, console
    from picas.executers import input_text
    from picas.util import visible
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")


class MyActor(RunActor):
    def process_task(self, token):
        text = input_text(token)
        print("My input is:", visible(text))
        token["output"] = {"length": len(text)}
        token["exit_code"] = 0  # any other exit code, or an exception, puts the token into the view error


def main():
    console.ArgumentParser(description=__doc__).parse_args()
    MyActor(connect()).run()


if __name__ == "__main__":
    console.run_pilot(main)
