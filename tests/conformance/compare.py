#!/usr/bin/python3
"""Compares what the cases saw over TCP and over SMBDIRECT, case by case.

    compare.py TCP SMBDIRECT FABRIC [--some]   fails on a difference that is not listed, and on a listed one that is not there;
                                               --some: not all cases were run
    compare.py --readme                        writes the table of differences into README.md

A line of `differences` is: cases | over TCP | over SMBDIRECT | why. Cases are patterns of names, with blanks between them;
FABRIC:PATTERN counts on that fabric alone. The two cells are lines that such a case says, * standing for anything and - for no line: nothing else may
differ in it. In short, cases | why: anything may.
"""
import difflib, fnmatch, functools, itertools, pathlib, re, sys

here = pathlib.Path(__file__).parent
BEGIN, END = '<!-- differences -->\n', '<!-- end -->\n'


class Difference:
    def __init__(self, line):
        cells = [cell.strip() for cell in line.split(' | ')]
        self.cases, self.why = cells[0], cells[-1]
        self.tcp, self.smbdirect = cells[1:3] if len(cells) == 4 else ('*', '*')
        if len(cells) not in (2, 4):
            sys.exit(f'differences: this is no row of the table: {line}')

    def means(self, case, fabric):
        return any(fnmatch.fnmatchcase(case, pattern) for pattern in self.patterns(fabric))

    def patterns(self, fabric):
        """Those that count on this fabric."""
        parts = [one.rpartition(':') for one in self.cases.split()]
        return [pattern for only, _, pattern in parts if only in ('', fabric)]

    def explains(self, tcp, smbdirect):
        return is_like(self.tcp, tcp) and is_like(self.smbdirect, smbdirect)

    def row(self):
        cells = [f'`{cell}`' if cell != '*' else '' for cell in (self.cases, self.tcp, self.smbdirect)]
        return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in [*cells, self.why]) + ' |\n'


def is_like(cell, line):
    return re.fullmatch('.*'.join(map(re.escape, cell.split('*'))), line.strip()) is not None


@functools.cache
def listed():
    lines = (line.strip() for line in (here / 'differences').read_text().splitlines())
    return [Difference(line) for line in lines if line and line[0] != '#']


def readme(text):
    rows = [one.row() for one in listed()]
    before, rest = text.split(BEGIN)
    table = '\n| cases | over TCP | over SMBDIRECT | why |\n|---|---|---|---|\n' + ''.join(rows) + '\n'
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


def pairs(tcp, smbdirect):
    """The lines in which they differ, side by side."""
    for what, i, j, k, l in difflib.SequenceMatcher(None, tcp, smbdirect, autojunk=False).get_opcodes():
        if what != 'equal':
            yield from itertools.zip_longest(tcp[i:j], smbdirect[k:l], fillvalue='-')


def compare(tcp, smbdirect, fabric):
    known, faults, same, differ = listed(), [], 0, 0
    for name in [*tcp, *(name for name in smbdirect if name not in tcp)]:
        due = [one for one in known if one.means(name, fabric)]
        one, other = tcp.get(name, ['(missing)']), smbdirect.get(name, ['(missing)'])
        broken = [line for line in one if 'EXCEPTION' in line or 'HUNG' in line]
        if broken or not one:
            faults.append(f'case {name} does not work over TCP:\n' + '\n'.join(broken))
            continue
        reasons = {pair: [d for d in due if d.explains(*pair)] for pair in pairs(one, other)}
        unknown = [pair for pair, found in reasons.items() if not found]
        seen = {d for found in reasons.values() for d in found}
        faults += [f'case {name} differs\n    TCP        {a.strip()}\n    SMBDIRECT  {b.strip()}' for a, b in unknown]
        faults += [f'case {name} does not differ as listed: {d.tcp} | {d.smbdirect}' for d in due if d not in seen]
        same += one == other
        differ += one != other and not unknown
    return faults, f'{fabric}: {len(tcp)} cases, {same} the same, {differ} differ as listed'


def main():
    file = here / 'README.md'
    if sys.argv[1:] == ['--readme']:
        return file.write_text(readme(file.read_text()))
    fabric, whole = sys.argv[3], sys.argv[4:] != ['--some']
    faults, summary = compare(*map(blocks, sys.argv[1:3]), fabric)
    if whole:
        names = blocks(sys.argv[1])
        due = [d for d in listed() if d.patterns(fabric) and not any(d.means(name, fabric) for name in names)]
        faults += [f'no case is like {d.cases}, which is listed' for d in due]
        if readme(file.read_text()) != file.read_text():
            faults.append('README.md has another table: compare.py --readme')
    print(*faults, summary, sep='\n')
    sys.exit(bool(faults))


if __name__ == '__main__':
    main()
