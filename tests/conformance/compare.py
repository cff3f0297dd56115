#!/usr/bin/python3
"""Compares what the cases saw over TCP and over SMBDIRECT, case by case.

    compare.py TCP SMBDIRECT     fails on a difference that is not listed, and on a listed one that is not there
    compare.py --readme          writes the table of differences into README.md
"""
import difflib, fnmatch, pathlib, sys

here = pathlib.Path(__file__).parent
BEGIN, END = '<!-- differences -->\n', '<!-- end -->\n'


def listed():
    """Pattern and reason of each line of the list."""
    lines = (line.strip() for line in (here / 'differences').read_text().splitlines())
    return dict((part.strip() for part in line.split('|', 1)) for line in lines if line and line[0] != '#')


def readme(text):
    rows = [f'| `{pattern}` | {reason} |\n' for pattern, reason in listed().items()]
    before, rest = text.split(BEGIN)
    table = '\n| case | why |\n|---|---|\n' + ''.join(rows) + '\n'
    return before + BEGIN + table + END + rest.split(END)[1]


def blocks(path):
    """What each case said."""
    found, lines = {}, []
    for line in pathlib.Path(path).read_text(errors='backslashreplace').splitlines():
        if line.startswith('case '):
            lines = found[line[5:]] = []
        else:
            lines.append(line)
    return found


def compare(tcp, smbdirect):
    reasons, faults, same, differ = listed(), [], 0, 0
    occurred = set()
    for name in [*tcp, *(name for name in smbdirect if name not in tcp)]:
        known = [pattern for pattern in reasons if fnmatch.fnmatchcase(name, pattern)]
        one, other = tcp.get(name, ['(missing)']), smbdirect.get(name, ['(missing)'])
        broken = [line for line in one if 'EXCEPTION' in line or 'HUNG' in line]
        if broken or not one:
            faults.append(f'case {name} does not work over TCP:\n' + '\n'.join(broken))
        elif one == other:
            same += 1
            if known:
                faults.append(f'case {name} is the same, but listed as {known[0]}')
        elif known:
            differ += 1
            occurred.update(known)
        else:
            lines = list(difflib.unified_diff(one, other, 'TCP', 'SMBDIRECT', lineterm='', n=1))[2:]
            faults.append('\n'.join([f'case {name} differs, TCP - and SMBDIRECT +', *lines]))
    return faults, occurred, f'{len(tcp)} cases: {same} the same, {differ} differ as listed'


def main():
    file = here / 'README.md'
    if sys.argv[1:] == ['--readme']:
        return file.write_text(readme(file.read_text()))
    whole = sys.argv[3:] != ['--some']
    faults, occurred, summary = compare(*map(blocks, sys.argv[1:3]))
    if whole:
        faults += [f'no case is like {pattern}, which is listed' for pattern in listed() if pattern not in occurred]
        if readme(file.read_text()) != file.read_text():
            faults.append('README.md has another table: compare.py --readme')
    print(*faults, summary, sep='\n')
    sys.exit(bool(faults))


if __name__ == '__main__':
    main()
