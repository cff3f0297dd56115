#!/usr/bin/python3
"""Runs the cases and prints what they see: main.py PORT SHARE [PATTERN...]. Each in a process of its own.

SHARE is I/N: of the cases that are meant each Nth, beginning with the Ith (from 0). main.py 0 0/0 prints their names alone.
"""
import fnmatch, importlib, os, signal, sys, threading, traceback

sys.dont_write_bytecode = True
import harness

here = os.path.dirname(os.path.abspath(__file__))
for name in sorted(os.listdir(here)):  # every topic registers its cases
    if name.endswith('.py') and name not in ('main.py', 'compare.py'):
        importlib.import_module(name[:-3])

HUNG = 40  # seconds: no case takes nearly so long


def run(function):
    os.setpgid(0, 0)
    threading.excepthook = lambda args: None  # of threads that a case leaves behind
    signal.alarm(HUNG)
    try:
        function()
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        harness.say('EXCEPTION', type(error).__name__, error, f'{os.path.basename(where.filename)}:{where.name}')
    sys.stdout.flush()
    os._exit(0)


def main():
    first, step = map(int, sys.argv[2].split('/'))
    patterns = sys.argv[3:] or ['*']
    meant = [name for name in harness.cases if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not step:
        return print(*meant, sep='\n')
    for name in meant[first::step]:
        function = harness.cases[name]
        print('case', name, flush=True)
        pid = os.fork()
        if pid == 0:
            run(function)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            harness.say('HUNG' if status == -signal.SIGALRM else f'ended with {status}')
        try:
            os.killpg(pid, signal.SIGKILL)  # whatever it left behind
        except ProcessLookupError:
            pass


if __name__ == '__main__':
    main()
