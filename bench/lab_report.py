"""The table and the JSON lines of bench/lab: lab_report.py RESULTS FRAGMENT JSON-FILE

RESULTS has a line for each figure: transport, test, size, mode, value; the rounds one after the other. FRAGMENT: bytes of
our largest message on the wire, 0 if SMBDIRECT was not measured."""
import collections
import json
import statistics
import sys

SIZES = (4096, 65536, 1048576)
LATENCY_SIZES = (64, 4096)
MODES = {'events': 'events', 'polling': 'polling', 'blocking': 'blocking', 'poll': 'poll()'}
NAMES = {'raw-send': 'raw sends', 'raw-read': 'raw reads', 'tcp': 'TCP', 'rsockets': 'rsockets', 'smbdirect': 'SMBDIRECT'}
HEADER = 24  # of a Data Transfer message, up to its payload


def size_name(size):
    for unit, name in ((1048576, 'MiB'), (1024, 'KiB')):
        if size % unit == 0:
            return f'{size // unit} {name}'
    return f'{size} B'


def read_results(path):
    figures = collections.defaultdict(list)
    with open(path, encoding='ascii') as lines:
        for line in lines:
            transport, test, size, mode, value = line.split()
            figures[transport, test, int(size), mode].append(float(value))
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
                cells = ''.join(f'{statistics.median(c) if c else float("nan"):12.1f}' for c in row)
                print(f'{NAMES[transport] + ", " + mode_name:24}{cells}')


def best_raw(figures, size):
    """The faster of both modes, round by round."""
    modes = [m for m in (figures.get(('raw-send', 'bandwidth', size, mode)) for mode in ('events', 'polling')) if m]
    return [max(values) for values in zip(*modes)]


def ratios(figures, fragment):
    """(what, test, size, mode, ratios of the rounds, whether the target is met; None where there is none)"""
    for mode in ('blocking', 'poll'):
        for size in SIZES:
            ours = figures.get(('smbdirect', 'bandwidth', size, mode), [])
            raw = [a / b for a, b in zip(ours, best_raw(figures, min(size + HEADER, fragment)))]
            yield 'SMBDIRECT / raw sends of its fragments', 'bandwidth', size, mode, raw, lambda r: r >= 0.9
            rsockets = [a / b for a, b in zip(ours, figures.get(('rsockets', 'bandwidth', size, mode), []))]
            yield 'SMBDIRECT / rsockets', 'bandwidth', size, mode, rsockets, lambda r: r > 1
        for size in LATENCY_SIZES:
            ours = figures.get(('smbdirect', 'latency', size, mode), [])
            raw_mode = 'events' if mode == 'blocking' else 'polling'
            for name, other, other_mode, target in (
                ('raw sends, ' + raw_mode, 'raw-send', raw_mode, None),
                ('blocking rsockets', 'rsockets', 'blocking', lambda r: r <= 1),
                ('rsockets in poll()', 'rsockets', 'poll', None),
            ):
                values = [a / b for a, b in zip(ours, figures.get((other, 'latency', size, other_mode), []))]
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


def write_json(path, figures, rows):
    with open(path, 'a' if path == '/dev/stdout' else 'w', encoding='ascii') as out:
        for (transport, test, size, mode), values in figures.items():
            unit = 'MiB/s' if test == 'bandwidth' else 'us'
            out.write(json.dumps({'transport': transport, 'test': test, 'size': size, 'mode': mode, 'unit': unit,
                                  'median': statistics.median(values), 'rounds': values}) + '\n')
        for what, test, size, mode, values, target in rows:
            if values:
                median = statistics.median(values)
                met = None if target is None else target(median)
                out.write(json.dumps({'ratio': what, 'test': test, 'size': size, 'mode': mode, 'median': median,
                                      'rounds': values, 'target_met': met}) + '\n')


def main():
    figures = read_results(sys.argv[1])
    fragment = int(sys.argv[2])
    rows = list(ratios(figures, fragment))
    fragments = sorted({key[2] for key in figures if key[0] == 'raw-send' and key[1] == 'bandwidth'} - set(SIZES))
    count = len(next(iter(figures.values())))
    print(f'Medians of {count} rounds.')
    print_table('Bandwidth, MiB/s', figures, NAMES, 'bandwidth', SIZES)
    print_table('Bandwidth at the sizes of fragments with their headers, MiB/s', figures, ['raw-send'], 'bandwidth', fragments)
    print_table('Round trip, microseconds', figures, NAMES, 'latency', LATENCY_SIZES)
    print_ratios(rows, 'bandwidth', 'Bandwidth: median of the ratios within a round, and their range')
    print_ratios(rows, 'latency', 'Round trip: median of the ratios within a round, and their range')
    sys.stdout.flush()
    if sys.argv[3] == '/dev/stdout':
        print(flush=True)
    write_json(sys.argv[3], figures, rows)


main()
