#!/usr/bin/python3
"""Runs the cases and prints what they see: main.py PORT [PATTERN...]. Each in a process of its own."""
import fnmatch, os, signal, sys, threading, traceback

sys.dont_write_bytecode = True
import harness
import connecting, naming, accepting, sending, receiving, reading, writing, readiness, pointers, files, splicing, options, settings, ends, interruptions, descriptors, processes

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
    patterns = sys.argv[2:] or ['*']
    for name, function in harness.cases.items():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
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
