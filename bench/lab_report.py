"""The table and the JSON lines of bench/lab: lab_report.py RESULTS FRAGMENT [JSON-FILE]

RESULTS has a line for each figure: round, transport, test, size, mode, value. A figure may be missing in a round. FRAGMENT: bytes of
our largest message on the wire, 0 if SMBDIRECT was not measured."""
import collections
import json
import statistics
import sys

SIZES = (4096, 65536, 1048576)
LATENCY_SIZES = (64, 4096)
MODES = {'events': 'events', 'polling': 'polling', 'blocking': 'blocking', 'poll': 'poll()'}
NAMES = {'raw-send': 'raw sends', 'raw-read': 'raw reads', 'tcp': 'TCP', 'rsockets': 'rsockets', 'smbdirect': 'SMBDIRECT'}
UNITS = {'bandwidth': 'MiB/s', 'latency': 'us', 'processors': 'processors'}
HEADER = 24  # of a Data Transfer message, up to its payload


def size_name(size):
    for unit, name in ((1048576, 'MiB'), (1024, 'KiB')):
        if size % unit == 0:
            return f'{size // unit} {name}'
    return f'{size} B'


def read_results(path):
    """{(transport, test, size, mode): {round: value}}"""
    figures = collections.defaultdict(dict)
    with open(path, encoding='ascii') as lines:
        for line in lines:
            number, transport, test, size, mode, value = line.split()
            figures[transport, test, int(size), mode][int(number)] = float(value)
    return figures


def print_table(title, figures, transports, test, sizes):
    if not any(key[1] == test and key[0] in transports and key[2] in sizes for key in figures):
        return
    print(f'\n{title}')
    print(f'{"":24}' + ''.join(f'{size_name(size):>12}' for size in sizes))
    for transport in transports:
        for mode, mode_name in MODES.items():
            row = [figures.get((transport, test, size, mode)) for size in sizes]
            if any(row):
                cells = ''.join(f'{statistics.median(c.values()):12.1f}' if c else f'{"-":>12}' for c in row)
                print(f'{NAMES[transport] + ", " + mode_name:24}{cells}')


def print_quietness(figures):
    for (transport, _, count, _), values in figures.items():
        if transport == 'machine':
            at_hand = ' '.join(f'{value:.1f}' for value in values.values())
            loud = any(not 0.8 <= value / count <= 1.25 for value in values.values())
            print(f'Processors at hand at the start of each round: {at_hand} (of {count})'
                  + ('; THE MACHINE WAS NOT QUIET, believe nothing' if loud else ''))


def best_raw(figures, size):
    """The faster of both modes, round by round."""
    best = {}
    for mode in ('events', 'polling'):
        for number, value in figures.get(('raw-send', 'bandwidth', size, mode), {}).items():
            best[number] = max(value, best.get(number, 0))
    return best


def ratios(figures, fragment):
    """(what, test, size, mode, ratios of the rounds, the target as a function or None)"""
    def against(ours, theirs):
        return [ours[number] / theirs[number] for number in ours if number in theirs]

    for mode in ('blocking', 'poll'):
        for size in SIZES:
            ours = figures.get(('smbdirect', 'bandwidth', size, mode), {})
            raw = against(ours, best_raw(figures, min(size + HEADER, fragment)))
            yield 'SMBDIRECT / raw sends of its fragments', 'bandwidth', size, mode, raw, lambda r: r >= 0.9
            rsockets = against(ours, figures.get(('rsockets', 'bandwidth', size, mode), {}))
            yield 'SMBDIRECT / rsockets', 'bandwidth', size, mode, rsockets, lambda r: r > 1
        for size in LATENCY_SIZES:
            ours = figures.get(('smbdirect', 'latency', size, mode), {})
            raw_mode = 'events' if mode == 'blocking' else 'polling'
            for name, other, other_mode, target in (
                (f'raw sends ({raw_mode})', 'raw-send', raw_mode, None),
                ('blocking rsockets', 'rsockets', 'blocking', lambda r: r <= 1),
                ('rsockets in poll()', 'rsockets', 'poll', None),
            ):
                values = against(ours, figures.get((other, 'latency', size, other_mode), {}))
                yield f'SMBDIRECT / {name}', 'latency', size, mode, values, target


def print_ratios(rows, test, title):
    rows = [row for row in rows if row[1] == test and row[4]]
    if not rows:
        return
    print(f'\n{title}')
    for what, _, size, mode, values, target in sorted(rows, key=lambda row: (row[0], row[3])):
        median = statistics.median(values)
        verdict = '' if target is None else '   target met' if target(median) else '   TARGET MISSED'
        print(f'{what + ", " + MODES[mode]:52}{size_name(size):>8}{median:8.2f} [{min(values):.2f}-{max(values):.2f}]{verdict}')


def json_lines(figures, rows):
    for (transport, test, size, mode), values in figures.items():
        yield {'transport': transport, 'test': test, 'size': size, 'mode': mode,
               'unit': UNITS[test],
               'median': statistics.median(values.values()), 'rounds': list(values.values())}
    for what, test, size, mode, values, target in rows:
        if values:
            median = statistics.median(values)
            yield {'ratio': what, 'test': test, 'size': size, 'mode': mode, 'median': median, 'rounds': values,
                   'target_met': None if target is None else target(median)}


def main():
    figures = read_results(sys.argv[1])
    fragment = int(sys.argv[2])
    rows = list(ratios(figures, fragment))
    fragments = sorted({key[2] for key in figures if key[0] == 'raw-send' and key[1] == 'bandwidth'} - set(SIZES))
    count = max(len(values) for values in figures.values())
    print(f'Medians of {count} rounds.')
    print_quietness(figures)
    print_table('Bandwidth, MiB/s', figures, NAMES, 'bandwidth', SIZES)
    print_table('Bandwidth at the sizes of fragments with their headers, MiB/s', figures, ['raw-send'], 'bandwidth', fragments)
    print_table('Round trip, microseconds', figures, NAMES, 'latency', LATENCY_SIZES)
    print_ratios(rows, 'bandwidth', 'Bandwidth: median of the ratios within a round, and their range')
    print_ratios(rows, 'latency', 'Round trip: median of the ratios within a round, and their range')
    lines = '\n'.join(map(json.dumps, json_lines(figures, rows))) + '\n'
    if len(sys.argv) > 3:
        with open(sys.argv[3], 'w', encoding='ascii') as file:
            file.write(lines)
    else:
        print('\n' + lines, end='')


main()
