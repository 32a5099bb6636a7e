// Reading and writing captures on a real file system, against the demo bundle (test/golden/capture/README.md).

import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capture } from '#capture/capture';
import { runsOf, wordAt } from '#capture/page-runs';
import { RecordedTree } from '#capture/recorded-tree';
import { memoryCgroups } from './cgroups.ts';
import { type CaptureRefusal, readCapture } from './read-capture.ts';
import { unpackCapture, type WriteRefusal, writeBundle } from './write.ts';

const DEMO = fileURLToPath(new URL('../../../test/golden/demo.dimmer', import.meta.url));
const MEMORY = '/sys/devices/system/memory';
const now = (): Date => new Date('2026-11-21T00:00:00Z');

let scratch = '';
beforeAll(() => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'dimmer-capture-'));
});
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));

let places = 0;
/** A fresh empty directory. */
const place = (): string => {
  const directory = path.join(scratch, `p${places++}`);
  fs.mkdirSync(directory);
  return directory;
};

function open(source: string): Capture {
  const read = readCapture(source, { now });
  if (!read.ok) throw new Error(read.error.sentence);
  return read.value;
}

function refusalOf(source: string): CaptureRefusal {
  const read = readCapture(source, { now });
  if (read.ok) throw new Error(`${source} was read`);
  return read.error;
}

function written(outcome: ReturnType<typeof writeBundle> | ReturnType<typeof unpackCapture>): void {
  if (!outcome.ok) throw new Error(outcome.error.sentence);
}

function writeRefusal(outcome: ReturnType<typeof writeBundle> | ReturnType<typeof unpackCapture>): WriteRefusal {
  if (outcome.ok) throw new Error('it was written');
  return outcome.error;
}

/** What two captures of one machine have to agree in; when a file was read is not kept by a directory. */
const contents = (capture: Capture): unknown => ({
  files: capture.tree instanceof RecordedTree && capture.tree.files.map(({ path, kind, text }) => [path, kind, text]),
  kpageflags: capture.kpageflags,
  kpagecount: capture.kpagecount,
  kpagecgroup: capture.kpagecgroup,
  cgroups: capture.cgroups,
  problems: capture.problems,
  takenAt: capture.origin.takenAt,
});

describe('the demo bundle', () => {
  it('CA1 opens, and is the machine that its README describes', () => {
    const demo = open(DEMO);
    expect(demo.origin).toEqual({ kind: 'bundle', name: 'demo.dimmer' });
    expect(demo.tree.readText('/proc/version')).toMatch(/^Linux version 6\.1\.0-56-amd64 \(\*@\*\) /);
    expect(demo.tree.readText('/proc/cmdline')).toContain(' movablecore=512M');
    expect(demo.tree.list(MEMORY).filter((name) => /^memory\d+$/.test(name))).toHaveLength(32);
    expect(demo.tree.readText(`${MEMORY}/memory47/valid_zones`)).toBe('Movable\n');
    expect(demo.tree.list(`${MEMORY}/memory47`)).toContain('node1');
    expect(demo.kpageflags?.endPfn).toBe(48 * 32768);
    expect(demo.problems.map((p) => `${p.file} ${p.kind}`)).toEqual(['/proc/kpagecgroup absent']);
  });

  it('CA2 has a reserved page in block 47, which makes it stay', () => {
    const { kpageflags } = open(DEMO);
    let reserved = 0;
    for (let pfn = 47 * 32768; pfn < 48 * 32768; pfn++) reserved += kpageflags!.hi[wordAt(kpageflags!, pfn)] & 1;
    expect(reserved).toBe(13617); // recorded by the guest just before it refused
  });
});

describe('readCapture', () => {
  it('CA3 a lab snapshot folder: flat files, a block table, words as .gz', () => {
    const lab = place();
    fs.mkdirSync(path.join(lab, 'memory'));
    fs.writeFileSync(path.join(lab, 'zoneinfo'), 'Node 0, zone    DMA32\n  pages free     1\n');
    fs.writeFileSync(path.join(lab, 'cmdline'), 'password=secret mem=2G\n');
    fs.writeFileSync(
      path.join(lab, 'memory/blocks.txt'),
      'block state valid_zones removable phys_device phys_index node links\nmemory3|offline|Normal Movable|1|0|00000003|node0 \n',
    );
    fs.writeFileSync(path.join(lab, 'memory/block_size_bytes'), '8000000\n');
    fs.writeFileSync(path.join(lab, 'kpageflags.gz'), gzipSync(new Uint8Array(8 * 32768)));
    const capture = open(lab);
    expect(capture.origin).toEqual({ kind: 'lab', name: lab });
    expect(capture.tree.readText(`${MEMORY}/memory3/state`)).toBe('offline\n');
    expect(capture.tree.readText('/proc/cmdline')).toBe('password=* mem=2G\n');
    expect(capture.kpageflags).toEqual(runsOf([[0, 0, 32768]]));
  });

  it('CA4 each thing that is no capture is one sentence with its reason', () => {
    const directory = place();
    const text = path.join(directory, 'notes.txt');
    fs.writeFileSync(text, 'x'.repeat(100));
    const short = path.join(directory, 'short.dimmer');
    fs.writeFileSync(short, fs.readFileSync(DEMO).subarray(0, 5000));
    const empty = path.join(directory, 'empty.dimmer');
    fs.writeFileSync(empty, '');
    const newer = path.join(directory, 'newer.dimmer');
    const bytes = fs.readFileSync(DEMO);
    bytes.writeUInt32LE(0xfffd0002, 8);
    fs.writeFileSync(newer, bytes);
    const damaged = path.join(directory, 'damaged.dimmer');
    bytes.writeUInt32LE(0xfffe0001, 8);
    bytes[9000] ^= 1;
    fs.writeFileSync(damaged, bytes);
    expect([directory, text, short, empty, newer, damaged, `${directory}/none`, '/dev/null'].map(refusalOf)).toEqual([
      { reason: 'no-machine', sentence: `${directory} holds neither proc/zoneinfo nor sys/devices/system/memory.` },
      { reason: 'foreign', sentence: 'notes.txt is not a dimmer bundle. Make one with: dimmer capture -o FILE' },
      {
        reason: 'truncated',
        sentence: `short.dimmer is cut short: 5000 bytes of ${bytes.length} are there. Copy it again.`,
      },
      { reason: 'truncated', sentence: 'empty.dimmer is empty. Copy or capture it again.' },
      {
        reason: 'newer',
        sentence: 'newer.dimmer has format version 2; this dimmer reads up to 1. Use a newer dimmer.',
      },
      {
        reason: 'corrupt',
        sentence: 'damaged.dimmer is damaged: its checksum does not fit. Copy it again from where it was made.',
      },
      { reason: 'absent', sentence: `${directory}/none does not exist.` },
      { reason: 'unreadable', sentence: '/dev/null is neither a directory nor a file.' },
    ]);
  });

  it('CA5 page words that are damaged in a directory are a problem, and the rest is read', () => {
    const directory = path.join(place(), 'd');
    written(unpackCapture(open(DEMO), { directory }));
    const packed = path.join(directory, 'proc/kpageflags.gz');
    const bytes = fs.readFileSync(packed);
    bytes[bytes.length - 6] ^= 1; // in the checksum of the last member
    fs.writeFileSync(packed, bytes);
    const capture = open(directory);
    const problem = capture.problems.find((p) => p.file === '/proc/kpageflags');
    expect(problem).toMatchObject({ kind: 'corrupt', detail: expect.stringContaining('checksum does not fit') });
    expect(capture.kpagecount).toEqual(open(DEMO).kpagecount);
  });

  it.skipIf(process.platform !== 'linux')('CA6 this machine, live: read twice, it is the same machine', () => {
    const capture = open('/');
    expect(capture.origin).toEqual({ kind: 'live', name: 'this machine', takenAt: '2026-11-21T00:00:00.000Z' });
    expect(capture.tree.readText('/proc/zoneinfo')).toContain('Node 0, zone');
    expect(capture.tree.readText('/proc/cmdline')).toBe(open('/').tree.readText('/proc/cmdline'));
    // Root sees the page words, anyone else a problem that says how to get them.
    const denied = capture.problems.some((p) => p.file === '/proc/kpageflags' && p.kind !== 'torn');
    expect(capture.kpageflags === undefined).toBe(denied);
    const host = os.hostname();
    if (host.length > 5)
      expect([...capture.cgroups.values()].some((name) => name.split(/[^A-Za-z0-9-]/).includes(host))).toBe(false);
  });
});

describe('memoryCgroups', () => {
  it('CA7 names each directory of the memory hierarchy by its inode, v1 before v2', () => {
    const mount = place();
    fs.mkdirSync(path.join(mount, 'memory/b/c'), { recursive: true });
    fs.mkdirSync(path.join(mount, 'memory/a'));
    fs.mkdirSync(path.join(mount, 'unified/z'), { recursive: true });
    fs.writeFileSync(path.join(mount, 'unified/cgroup.controllers'), '');
    const unified = memoryCgroups(mount);
    expect([...unified.paths.values()]).toEqual(['/', '/z']);
    fs.writeFileSync(path.join(mount, 'memory/memory.usage_in_bytes'), '');
    const { paths, more } = memoryCgroups(mount);
    expect([...paths.values()]).toEqual(['/', '/a', '/b', '/b/c']);
    expect(paths.get(fs.statSync(path.join(mount, 'memory/b/c')).ino)).toBe('/b/c');
    expect(more).toBe(false);
    expect(memoryCgroups(path.join(mount, 'none')).paths.size).toBe(0);
  });
});

describe('writeBundle', () => {
  it('CA8 a written bundle is the capture again, for its owner only', () => {
    const file = path.join(place(), 'a.dimmer');
    const demo = open(DEMO);
    const outcome = writeBundle(demo, { file, toolVersion: '0.1.0' });
    expect(outcome).toEqual({ ok: true, value: { file: fs.realpathSync(file), bytes: fs.statSync(file).size } });
    expect(contents(open(file))).toEqual(contents(demo));
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
  });

  it('CA9 replaces a bundle and an empty file, through a link as well, and leaves nothing beside it', () => {
    const directory = place();
    const file = path.join(directory, 'a.dimmer');
    fs.writeFileSync(file, '');
    fs.symlinkSync('a.dimmer', path.join(directory, 'link.dimmer'));
    written(writeBundle(open(DEMO), { file, toolVersion: '0.1.0' }));
    written(writeBundle(open(DEMO), { file: path.join(directory, 'link.dimmer'), toolVersion: '0.1.0' }));
    expect(fs.readdirSync(directory).sort()).toEqual(['a.dimmer', 'link.dimmer']);
    expect(fs.lstatSync(path.join(directory, 'link.dimmer')).isSymbolicLink()).toBe(true);
  });

  it('CA10 refuses what is not its own, and touches nothing', () => {
    const directory = place();
    const notes = path.join(directory, 'notes.txt');
    fs.writeFileSync(notes, 'mine');
    const write = (file: string): WriteRefusal['reason'] =>
      writeRefusal(writeBundle(open(DEMO), { file, toolVersion: '0.1.0' })).reason;
    expect(write(notes)).toBe('not-a-bundle');
    expect(write(directory)).toBe('not-a-file');
    expect(write(path.join(directory, 'none/a.dimmer'))).toBe('no-such-directory');
    expect(write('/proc/a.dimmer')).toBe('forbidden-place');
    expect(write('/sys/kernel/a.dimmer')).toBe('forbidden-place');
    expect(write('/dev/null')).toBe('forbidden-place');
    expect(write('/')).toBe('forbidden-place');
    fs.symlinkSync('/sys/kernel', path.join(directory, 'way'));
    expect(write(path.join(directory, 'way/a.dimmer'))).toBe('forbidden-place');
    expect(fs.readFileSync(notes, 'utf8')).toBe('mine');
    expect(fs.readdirSync(directory).sort()).toEqual(['notes.txt', 'way']);
  });

  it('CA11 a failure on the way is one sentence, and nothing is left behind', () => {
    const directory = place();
    const file = path.join(directory, `${'x'.repeat(248)}.dimmer`); // itself legal, its temporary too long
    const refusal = writeRefusal(writeBundle(open(DEMO), { file, toolVersion: '0.1.0' }));
    expect(refusal.reason).toBe('failed');
    expect(refusal.sentence).toMatch(/ cannot be written \(ENAMETOOLONG\); nothing was written\.$/);
    expect(fs.readdirSync(directory)).toEqual([]);
  });
});

describe('unpackCapture', () => {
  it('CA12 an unpacked directory is the capture again', () => {
    const directory = path.join(place(), 'd');
    const demo = open(DEMO);
    const capture: Capture = {
      ...demo,
      origin: { ...demo.origin, takenAt: '2026-11-20T00:00:00.000Z' },
      kpagecgroup: runsOf([
        [4242, 0, 3_000_000], // three gzip members
        [7, 0x80000000, 1],
      ]),
      cgroups: new Map([
        [7, '/a'],
        [4242, '/b'],
      ]),
    };
    written(unpackCapture(capture, { directory }));
    expect(contents(open(directory))).toEqual(contents(capture));
    expect(fs.readlinkSync(path.join(directory, MEMORY, 'memory47/node1'))).toBe('../../node/node1');
    expect(fs.realpathSync(path.join(directory, '/sys/devices/system/node/node1/memory47'))).toBe(
      fs.realpathSync(path.join(directory, MEMORY, 'memory47')),
    );
  });

  const lsmem = spawnSync('lsmem', ['--version'], { encoding: 'utf8' });
  it.skipIf(lsmem.error !== undefined)('CA13 lsmem --sysroot reads it (skipped where util-linux has no lsmem)', () => {
    const directory = path.join(place(), 'd');
    written(unpackCapture(open(DEMO), { directory }));
    const run = spawnSync(
      'lsmem',
      ['--sysroot', directory, '--raw', '--noheadings', '-o', 'RANGE,SIZE,STATE,NODE,ZONES'],
      {
        encoding: 'utf8',
        env: { ...process.env, LC_ALL: 'C' },
      },
    );
    expect(run.stderr).toBe('');
    expect(run.stdout.trim().split('\n')).toEqual([
      '0x0000000000000000-0x0000000007ffffff 128M online 0 None',
      '0x0000000008000000-0x000000007fffffff 1.9G online 0 DMA32',
      '0x0000000100000000-0x000000015fffffff 1.5G online 1 Normal',
      '0x0000000160000000-0x000000017fffffff 512M online 1 Movable',
    ]);
  });

  it('CA14 refuses a directory that holds anything, a file, and the places of the kernel', () => {
    const directory = place();
    const unpack = (to: string): WriteRefusal['reason'] =>
      writeRefusal(unpackCapture(open(DEMO), { directory: to })).reason;
    fs.writeFileSync(path.join(directory, 'file'), 'mine');
    expect(unpack(directory)).toBe('not-empty');
    expect(unpack(path.join(directory, 'file'))).toBe('not-a-file');
    expect(unpack('/')).toBe('forbidden-place');
    expect(unpack('/sys')).toBe('forbidden-place');
    expect(unpack('/proc/x')).toBe('forbidden-place');
    expect(unpack(path.join(directory, 'none/d'))).toBe('no-such-directory');
    expect(fs.readdirSync(directory)).toEqual(['file']);
  });

  it('CA15 an empty directory is filled, and a failure half-way leaves it empty', () => {
    const directory = path.join(place(), 'd');
    fs.mkdirSync(directory);
    const file = { kind: 'text', text: 'x', startedMs: 0, endedMs: 0 } as const;
    const tree = new RecordedTree([
      { ...file, path: '/proc/a' },
      { ...file, path: `/proc/${'b'.repeat(300)}` }, // a name that no file system takes
    ]);
    const refusal = writeRefusal(unpackCapture({ ...open(DEMO), tree }, { directory }));
    expect(refusal.reason).toBe('failed');
    expect(fs.readdirSync(directory)).toEqual([]);
    expect(fs.readdirSync(path.dirname(directory))).toEqual(['d']);
    written(unpackCapture(open(DEMO), { directory }));
    expect(fs.readdirSync(directory).sort()).toEqual(['capture.json', 'proc', 'sys']);
  });
});
