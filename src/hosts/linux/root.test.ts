import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PageRuns, RunBuilder, runsOf } from '#capture/page-runs';
import { forEachGzipMember } from './gzip.ts';
import { failureOf, fsTree, machineFiles } from './root.ts';

let scratch = '';
let root = '';

beforeAll(() => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'dimmer-root-'));
  root = path.join(scratch, 'root');
  fs.mkdirSync(path.join(root, 'proc'), { recursive: true });
  fs.mkdirSync(path.join(root, 'sys/devices/system/memory/memory3'), { recursive: true });
  fs.mkdirSync(path.join(root, 'sys/devices/system/node/node0'), { recursive: true });
  fs.writeFileSync(path.join(root, 'proc/zoneinfo'), 'Node 0, zone DMA\n');
  fs.writeFileSync(path.join(root, 'proc/empty'), '');
  fs.symlinkSync('../../node/node0', path.join(root, 'sys/devices/system/memory/memory3/node0'));
  fs.writeFileSync(path.join(scratch, 'outside'), 'private\n');
  fs.symlinkSync('../../outside', path.join(root, 'proc/leak'));
  fs.symlinkSync(scratch, path.join(root, 'proc/leaks'));
  fs.symlinkSync('zoneinfo', path.join(root, 'proc/within'));
});

afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));

const read = (file: string): PageRuns => {
  const builder = new RunBuilder();
  const failure = machineFiles(root).readWords(file, (pairs, words) => builder.push(pairs, words));
  expect(failure).toBeUndefined();
  return builder.finish();
};

const wordBytes = (...words: readonly (readonly [lo: number, hi: number])[]): Uint8Array =>
  new Uint8Array(Uint32Array.from(words.flat()).buffer);

describe('fsTree', () => {
  it('RO1 reads text, tells empty from absent, and lists sorted names, links included', () => {
    const tree = fsTree(root);
    expect(tree.readText('/proc/zoneinfo')).toBe('Node 0, zone DMA\n');
    expect(tree.readText('/proc/within')).toBe('Node 0, zone DMA\n');
    expect(tree.readText('/proc/empty')).toBe('');
    expect(tree.readText('/proc/absent')).toBeUndefined();
    expect(tree.list('/sys/devices/system/memory/memory3')).toEqual(['node0']);
    expect(tree.list('/absent')).toEqual([]);
    expect(tree.list('/proc/zoneinfo')).toEqual([]);
  });

  it('RO2 nothing outside the directory is read, whatever links say', () => {
    const tree = fsTree(root);
    for (const file of ['/proc/leak', '/proc/leaks/outside', '/../outside', '/proc/../../outside'])
      expect(tree.readText(file), file).toBeUndefined();
    expect(tree.list('/proc/leaks')).toEqual([]);
    expect(machineFiles(root).readWords('/proc/leak', () => {})).toMatchObject({ kind: 'absent' });
  });

  it('RO3 a directory, a fifo and a device read as absent, at once', () => {
    execFileSync('mkfifo', [path.join(root, 'proc/fifo')]);
    const tree = fsTree(root);
    for (const file of ['/proc/fifo', '/sys']) expect(tree.read(file).kind, file).toBe('absent');
    expect(fsTree('/dev').read('/zero').kind).toBe('absent');
  });

  it('RO4 a text larger than any of the kernel is refused, not loaded', () => {
    fs.truncateSync(path.join(root, 'proc/empty'), 0);
    const large = path.join(root, 'proc/large');
    fs.writeFileSync(large, '');
    fs.truncateSync(large, 17 * 1024 ** 2);
    expect(fsTree(root).read('/proc/large')).toMatchObject({ kind: 'corrupt' });
    fs.truncateSync(large, 1024 ** 2);
    expect(fsTree(root).readText('/proc/large')?.length).toBe(1024 ** 2);
  });

  it('RO5 system errors become absent, denied or a failure with its code', () => {
    const coded = (code: string): Error => Object.assign(new Error(code), { code });
    expect(failureOf(coded('ENOENT')).kind).toBe('absent');
    expect(failureOf(coded('EACCES'))).toEqual({ kind: 'denied', detail: 'reading it is refused (EACCES)' });
    expect(failureOf(coded('EPERM')).kind).toBe('denied');
    expect(failureOf(coded('EIO'))).toEqual({ kind: 'corrupt', detail: 'reading it failed (EIO)' });
  });
});

describe('page words', () => {
  it('RO6 come raw or as .gz; raw wins', () => {
    fs.writeFileSync(path.join(root, 'proc/kpageflags'), wordBytes([1, 2], [1, 2], [3, 0]));
    fs.writeFileSync(path.join(root, 'proc/kpageflags.gz'), gzipSync(wordBytes([9, 9])));
    fs.writeFileSync(path.join(root, 'proc/kpagecount.gz'), gzipSync(wordBytes([9, 9])));
    expect(read('/proc/kpageflags')).toEqual(
      runsOf([
        [1, 2, 2],
        [3, 0, 1],
      ]),
    );
    expect(read('/proc/kpagecount')).toEqual(runsOf([[9, 9, 1]]));
  });

  it('RO7 a .gz of several members is one file, also when a word is cut by the border', () => {
    const bytes = wordBytes([1, 2], [3, 4], [3, 4]);
    const cut = Buffer.concat([gzipSync(bytes.subarray(0, 11)), gzipSync(bytes.subarray(11))]);
    fs.writeFileSync(path.join(root, 'proc/cut.gz'), cut);
    expect(read('/proc/cut')).toEqual(
      runsOf([
        [1, 2, 1],
        [3, 4, 2],
      ]),
    );
  });

  it('RO8 more than one chunk of words, raw and packed, arrives whole', () => {
    const words = new Uint32Array(2 * 300_000);
    for (let i = 0; i < 300_000; i++) words[2 * i] = Math.floor(i / 7) % 11;
    fs.writeFileSync(path.join(root, 'proc/many'), new Uint8Array(words.buffer));
    fs.writeFileSync(path.join(root, 'proc/packed.gz'), gzipSync(words));
    const whole = new RunBuilder();
    whole.push(words, 300_000);
    const runs = whole.finish();
    expect(runs.length).toBe(Math.ceil(300_000 / 7));
    expect(read('/proc/many')).toEqual(runs);
    expect(read('/proc/packed')).toEqual(runs);
  });

  it('RO9 a file that ends inside a word is truncated, what was whole is kept', () => {
    const bytes = wordBytes([1, 0], [2, 0]).subarray(0, 13);
    fs.writeFileSync(path.join(root, 'proc/short'), bytes);
    fs.writeFileSync(path.join(root, 'proc/shortgz.gz'), gzipSync(bytes));
    for (const file of ['/proc/short', '/proc/shortgz']) {
      const builder = new RunBuilder();
      const failure = machineFiles(root).readWords(file, (pairs, words) => builder.push(pairs, words));
      expect(failure, file).toEqual({ kind: 'truncated', detail: 'it ends in the middle of a word' });
      expect(builder.finish(), file).toEqual(runsOf([[1, 0, 1]]));
    }
  });

  it('RO10 a damaged .gz is corrupt wherever it is damaged, and cut short at any byte', () => {
    const sound = gzipSync(wordBytes([1, 2], [3, 4], [5, 6]));
    const faultOf = (bytes: Uint8Array): string | undefined => forEachGzipMember(bytes, () => {});
    expect(faultOf(sound)).toBeUndefined();
    for (let bytes = 1; bytes < sound.length; bytes++)
      expect(faultOf(sound.subarray(0, bytes)), `${bytes}`).toBeDefined();
    for (let at = 10; at < sound.length; at++) {
      const damaged = Uint8Array.from(sound);
      damaged[at] ^= 0x10;
      expect(faultOf(damaged), `byte ${at}`).toBeDefined();
    }
    expect(faultOf(Buffer.concat([sound, Buffer.from('trailing bytes, not gzip')]))).toBe(
      `byte ${sound.length} does not begin a gzip member`,
    );
  });

  it('RO11 a member with a name in its header, as gzip(1) writes it, is read', () => {
    const file = path.join(scratch, 'named');
    fs.writeFileSync(file, wordBytes([7, 7]));
    execFileSync('gzip', [file]);
    const bytes = fs.readFileSync(`${file}.gz`);
    expect(bytes[3] & 8).toBe(8); // FNAME
    let raw: Uint8Array = new Uint8Array(0);
    expect(forEachGzipMember(bytes, (member) => (raw = member))).toBeUndefined();
    expect([...raw]).toEqual([...wordBytes([7, 7])]);
  });
});
