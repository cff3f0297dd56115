"""Runs smbtorture's tests over two transports and compares what came out, test by test. See torture, which starts the servers.

Each test is a smbtorture of its own on a share of its own, so that none sees what another left, and one that hangs or
crashes costs no other. What counts as its outcome is the result, and of a failure the line of smbtorture's source too.
A test whose outcomes differ is run again, with nothing beside it; it fails if what it says most often over SMBDIRECT is
something that it never says over TCP.
"""
import argparse
import collections
import concurrent.futures
import fnmatch
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

COMMAND = os.environ["TORTURE_COMMAND"].split()
AGAIN = 3  # more runs of a test whose outcomes differ
RESULT = re.compile(r"^(success|failure|skip|error): (.*?)(?: \[)?$")
PLACE = re.compile(r"source\d/\S+?\.c:\d+")
REPLY = re.compile(r" engine conn=\d+ in  length=\d+ DataLength=[1-9]")
Rule = collections.namedtuple("Rule", "kind pattern reason")
# What some tests need of their share, as Samba's own selftest gives it to them.
SHARES = [
    ("smb2.create_no_streams.*", ["vfs objects = acl_xattr xattr_tdb", "smbd:streams = no"]),
    ("smb2.kernel-oplocks.*", ["kernel oplocks = yes"]),
    ("smb2.acls_non_canonical.*", ["acl flag inherited canonicalization = no"]),
]
# What some want to be told.
OPTIONS = ["--option=torture:filename=file", "--option=torture:offset=0", "--option=torture:beyond_final_zero=4096"]


def all_tests():
    # Its names are those of suite, case and test, of which the last two are mostly the same.
    listed = subprocess.run([*COMMAND, "--list"], capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if name.startswith("smb2.")]


def print_shares(directory):
    for number, test in enumerate(all_tests()):
        lines = next((lines for pattern, lines in SHARES if fnmatch.fnmatchcase(test, pattern)), [])
        print(f"[t{number}]", "copy = share", f"path = {directory}/t{number}", *lines, sep="\n    ")


def read_rules(path):
    rules = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            kind, pattern, reason = line.split(None, 2)
            if kind not in ("out", "slow", "unsteady", "differs"):
                sys.exit(f"{path}: what is '{kind}'?")
            rules.append(Rule(kind, pattern, reason))
    return rules


def rule_for(rules, test, *kinds):
    return next((rule for rule in rules if rule.kind in kinds and fnmatch.fnmatchcase(test, rule.pattern)), None)


class Transport:
    def __init__(self, name, directory, environment):
        self.name, self.directory = name, pathlib.Path(directory)
        self.environment = environment
        self.port = int(re.search(r"smb ports = (\d+)", (self.directory / "smb.conf").read_text()).group(1))


class Runner:
    def __init__(self, options):
        self.options, self.lock, self.ended = options, threading.Lock(), False
        self.running = set()
        self.owner = (options.user.split("%")[0], None) if os.getuid() == 0 else None

    def __call__(self, share, test, transport):
        """The outcome of one run. What it leaves is in a directory that the next run of the same test empties."""
        share_directory, base = transport.directory / "shares" / share, transport.directory / "runs" / share
        for directory in share_directory, base:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        if self.owner:
            shutil.chown(share_directory, *self.owner)
        command = [*COMMAND, f"//127.0.0.1/{share}", "-p", str(transport.port), "-U", self.options.user,
                   "-s", str(transport.directory / "client.conf"), "--format=subunit",
                   f"--option=torture:localdir={share_directory}", *OPTIONS, test]
        begun = time.monotonic()
        with open(base / "out", "wb") as out:
            with self.lock:
                if self.ended:
                    return "not run"
                process = subprocess.Popen(
                    command, env=os.environ | transport.environment | {"SMBDIRECT_TRACE": str(base)}, cwd=base,
                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
                self.running.add(process)
            try:
                status = process.wait(self.options.limit)
            except subprocess.TimeoutExpired:
                status = None
            with self.lock:
                kill_group(process)
                self.running.discard(process)
        ended = time.monotonic()
        said = outcome((base / "out").read_text(errors="replace"), status)
        if "LD_PRELOAD" in transport.environment and said != "skip" and not over_smbdirect(base):
            said += ", but not over SMBDIRECT"
        with self.lock, open(transport.directory / "runs" / "outcomes", "a") as file:
            print(share, short(test), f"{ended - begun:.1f}", said, sep="\t", file=file)
        return said

    def end(self):
        with self.lock:
            self.ended = True
            for process in self.running:
                kill_group(process)


def kill_group(process):
    """smbtorture, if it still runs, and what it forked."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def over_smbdirect(base):
    """Whether the engine's part of this run's trace tells of SMB Direct messages with a server's replies. Then nothing
    went over TCP: the rule makes that fail."""
    deadline = time.monotonic() + 20  # the engine writes it a moment later
    while not any(REPLY.search(file.read_text(errors="replace")) for file in base.glob("smbtorture.*.trace")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def outcome(text, status):
    """success, skip, failure at LINE ..., or how smbtorture ended without a result."""
    if status is None:
        return "unfinished"
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        result = RESULT.match(line)
        if result:
            why = PLACE.search(" ".join(lines[number + 1:number + 4])) if result[1] in ("failure", "error") else None
            found.append(f"{result[1]} at {why[0]}" if why else result[1])
    if status < 0:
        found.append(f"killed by {signal.Signals(-status).name}")
    return ", ".join(found) or f"no result, status {status}"


def compare(runner, transports, tests, options):
    """Runs all tests over both, and those that differ again: {test: {transport name: [outcome, ...]}}."""
    def runs(*run):
        return [runner(*run) for _ in range(options.times)]

    outcomes = {test: {transport.name: [] for transport in transports} for _, test in tests}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(runs, share, test, transport): (test, transport)
                   for share, test in tests for transport in transports}
        try:
            for future in concurrent.futures.as_completed(futures):
                test, transport = futures[future]
                outcomes[test][transport.name] += future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.end()
            raise
    for share, test in tests:
        if verdict(outcomes[test]) != "same":
            print(f"again, {AGAIN} times: {short(test)}, which ended in:",
                  "; ".join(f"{name}: {counted(runs)}" for name, runs in outcomes[test].items()), flush=True)
            for _ in range(AGAIN):
                for transport in transports:
                    outcomes[test][transport.name].append(runner(share, test, transport))
    return outcomes


def verdict(runs):
    tcp, smbdirect = runs.values()
    if len({*tcp, *smbdirect}) == 1:
        return "same"
    [(usual, _)] = collections.Counter(smbdirect).most_common(1)
    return "unsteady" if usual in tcp else "differs"


def counted(outcomes):
    return ", ".join(f"{count} x {outcome}" if count > 1 else outcome
                     for outcome, count in collections.Counter(outcomes).most_common())


def short(test):
    words = test.split(".")
    return ".".join(words[:-1] if words[-1] == words[-2] else words)


def report(outcomes, rules):
    """A table of the suites and what is to be said of single tests. Whether all is as it should be."""
    kinds = ("success", "failure", "skip")
    rows, bad, seen = collections.defaultdict(collections.Counter), [], set()
    for test, runs in sorted(outcomes.items()):
        row, said = rows[".".join(test.split(".")[:2])], verdict(runs)
        row["tests"] += 1
        row[said] += 1
        for transport, (first, *_) in runs.items():
            word = first.split()[0]
            row[transport, word if word in kinds else "other"] += 1
        if said != "same":
            known = rule_for(rules, test, said)
            seen.add(known)
            print(f"{short(test)} {said}{': ' + known.reason if known else ', which is not in the list'}")
            for transport, each in runs.items():
                print(f"    {transport}: {counted(each)}")
            if said == "differs" and not known:
                bad.append(test)
    for rule in rules:
        if rule.kind in ("unsteady", "differs") and rule not in seen and any(rule_for([rule], test, rule.kind)
                                                                             for test in outcomes):
            print(f"{rule.pattern} is listed as '{rule.kind}', which did not happen this time")
    columns = [(transport, kind) for transport in next(iter(outcomes.values())) for kind in (*kinds, "other")]
    print(f"{'':30} tests same unsteady differs | " + " | ".join(f"{t}: success failure skip other" for t in dict(columns)))
    rows["all"] = sum(rows.values(), collections.Counter())
    for suite, row in rows.items():
        numbers = " ".join(f"{row[column]:>7}" + (" |" if column[1] == "other" else "") for column in columns)
        print(f"{suite:30} {row['tests']:>5} {row['same']:>4} {row['unsteady']:>8} {row['differs']:>7} | {numbers}")
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--print-shares", metavar="DIRECTORY")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--times", type=int, default=1, help="that each test is run to begin with")
    parser.add_argument("--limit", type=int, help="seconds for one test; 60, or 300 with slow ones")
    parser.add_argument("--user", help="NAME%%PASSWORD")
    parser.add_argument("--tcp", help="directory of the server that is asked over TCP")
    parser.add_argument("--smbdirect", help="directory of the other one")
    parser.add_argument("patterns", nargs="*")
    options = parser.parse_args()
    if options.print_shares:
        print_shares(options.print_shares)
        return
    options.limit = options.limit or (300 if options.all or options.patterns else 60)
    rules = read_rules(pathlib.Path(__file__).with_suffix(".list"))
    tests = [(f"t{number}", test) for number, test in enumerate(all_tests())]
    for rule in rules:
        if not any(rule_for([rule], test, rule.kind) for _, test in tests):
            print(f"{rule.pattern} is listed as '{rule.kind}', but smbtorture has no such test")
    if options.patterns:
        tests = [(share, test) for share, test in tests
                 if any(fnmatch.fnmatchcase(short(test), pattern) for pattern in options.patterns)]
    else:
        left_out = ("out",) if options.all else ("out", "slow")
        tests = [(share, test) for share, test in tests if not rule_for(rules, test, *left_out)]
    tests.sort(key=lambda each: not rule_for(rules, each[1], "slow"))  # what takes longest begins first
    if not tests:
        sys.exit("FAIL: there is no such test")
    transports = [Transport("tcp", options.tcp, {}),
                  Transport("smbdirect", options.smbdirect, {name: os.environ[f"TORTURE_{name}"]
                            for name in ("LD_PRELOAD", "SMBDIRECT_RULES") if f"TORTURE_{name}" in os.environ})]
    runner = Runner(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAIL: ended by a signal"))
    bad = report(compare(runner, transports, tests, options), rules)
    if bad:
        sys.exit(f"FAIL: {len(bad)} tests end otherwise over SMBDIRECT than over TCP: {', '.join(map(short, bad))}")


main()
