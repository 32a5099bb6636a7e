// The accuracy command on a small table of real attempts (test/golden/twin/truth), run as a user runs it: as a process.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';

const COMMAND = fileURLToPath(new URL('../dist/cli/accuracy.js', import.meta.url));
const TRUTH = fileURLToPath(new URL('golden/twin/truth/', import.meta.url));

function run(...args: string[]): { status: number | null; out: string; err: string } {
  if (!existsSync(COMMAND)) throw new Error('dist/cli/accuracy.js is missing: npm run build (npm test does it)');
  const done = spawnSync(process.execPath, [COMMAND, ...args], { encoding: 'utf8' });
  return { status: done.status, out: done.stdout, err: done.stderr };
}

const folder = mkdtempSync(join(tmpdir(), 'dimmer-accuracy-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A table beside a copy of the captures, its lines changed. */
function table(change: (lines: string[]) => string[]): string {
  const copy = join(folder, 'truth');
  if (!existsSync(copy)) cpSync(TRUTH, copy, { recursive: true });
  const file = join(copy, `${Math.abs(hash(change.toString()))}.csv`);
  const lines = readFileSync(join(TRUTH, 'truth.csv'), 'utf8').split('\r\n');
  writeFileSync(file, change(lines).join('\r\n'));
  return file;
}
const hash = (text: string): number => [...text].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) | 0, 7);

describe('npm run accuracy', () => {
  it('A8 judges real attempts: no refusal is missed or wrong, nothing said to go stayed, one false alarm', () => {
    const { status, out } = run(`${TRUTH}truth.csv`, '--json');
    expect(status).toBe(0);
    const report = JSON.parse(out);
    expect(report.version).toBe(1);
    expect(report.total).toMatchObject({ rows: 15, taken: 4, refused: 8, endless: 3 });
    expect(report.total.noPrecision).toEqual({ hits: 8, of: 8, value: 1 });
    expect(report.total.noRecall.value).toBe(1);
    expect(report.total.errno.value).toBe(1);
    expect(report.total.yesPrecision.value).toBe(1);
    expect(report.captures.map((c: { name: string }) => c.name)).toEqual([
      'offline-busy-movablecore-512M',
      'offline-busy-plain',
    ]);
    // docs/fidelity.md explains it: a page of file system metadata that looked held and was not.
    expect(report.misses.map((m: { block: number; said: { code: string } }) => [m.block, m.said.code])).toEqual([
      [34, 'pin-sign'],
    ]);
  });

  it('A9 prints a line for each capture, one for all, every miss with its reason, and the goals', () => {
    const { status, out } = run(`${TRUTH}truth.csv`);
    expect(status).toBe(0);
    expect(out).toMatch(/^offline-busy-plain +8 /m);
    expect(out).toMatch(/^all +15 +4 +8 +3 \|/m);
    expect(out).toContain('1 of 15 rows were missed:');
    expect(out).toMatch(/block 34: Linux ok, dimmer maybe EINTR \(pin-sign: 1 page of file system metadata/);
    expect(out).toContain('Goals missed: yesRecall 75.0% (goal 99%), maybe 26.7% (goal 4%).');
  });

  it('A10 --strict exits 1 when a goal is missed, 0 when none is', () => {
    expect(run(`${TRUTH}truth.csv`, '--strict').status).toBe(1);
    const good = table((lines) => lines.filter((l) => !l.includes('(EINTR)') && !l.includes('mem34.kpf')));
    const { status, out } = run(good, '--strict');
    expect(out).toContain('All goals are met.');
    expect(status).toBe(0);
  });

  it('A11 the pages of the block itself count, not the older snapshot: with the pages of another block the answer is another one', () => {
    const swapped = table((lines) =>
      lines
        .filter((l, k) => k === 0 || l.includes('plain/loaded2-pages/mem8.'))
        .map((l) => l.replace('mem8.kpf', 'mem2.kpf')),
    );
    const report = JSON.parse(run(swapped, '--json').out);
    expect(report.misses).toHaveLength(1);
    expect(report.misses[0].said).toMatchObject({ verdict: 'no', errno: 'EBUSY', code: 'unmovable' });
    const without = table((lines) =>
      lines
        .filter((l, k) => k === 0 || l.includes('plain/loaded2-pages/mem8.'))
        .map((l) => l.replace(/offline-busy-plain\/loaded2-pages\/mem8.kpf.gz$/, '')),
    );
    expect(JSON.parse(run(without, '--json').out).misses, 'no pages of its own: the snapshot is judged').toEqual([]);
  });

  it('A12 whatever cannot be read is one sentence with its line, and exit 2', () => {
    const fails = (file: string): string => {
      const { status, out, err } = run(file);
      expect(status).toBe(2);
      expect(out).toBe('');
      expect(err.trimEnd().split('\n')).toHaveLength(1);
      return err;
    };
    expect(fails(join(folder, 'nowhere.csv'))).toMatch(/nowhere\.csv cannot be read: ENOENT/);
    expect(fails(table((l) => l.map((x) => x.replace('mem5.kpf', 'mem500.kpf'))))).toMatch(
      /^line 3: .*mem500\.kpf\.gz cannot be read: no such file/,
    );
    expect(fails(table((l) => l.map((x) => x.replace(',loaded2,', ',loaded9,'))))).toMatch(
      /^line 2 and 6 more: .*loaded9-before does not exist/,
    );
    expect(fails(table((l) => l.slice(0, 1)))).toMatch(/column names and no rows\.$/m);
    const short = join(folder, 'truth', 'offline-busy-plain', 'loaded2-before', 'kpagecount.gz');
    const long = table((l) =>
      l.map((x) =>
        x.replace('offline-busy-plain/loaded2-pages/mem8.kpf.gz', 'offline-busy-plain/loaded2-before/kpageflags.gz'),
      ),
    );
    expect(existsSync(short)).toBe(true);
    expect(fails(long)).toMatch(/kpageflags\.gz has \d+ frames; a memory block of this machine has 32768/);
  });

  it('A12 a snapshot without page flags is taken to be free elsewhere: the pages of the block itself still decide', () => {
    const bare = table((lines) => lines.map((l) => l.replaceAll('offline-busy-plain', 'bare')));
    cpSync(join(TRUTH, 'offline-busy-plain'), join(folder, 'truth', 'bare'), { recursive: true });
    rmSync(join(folder, 'truth', 'bare', 'loaded2-before', 'kpageflags.gz'));
    const { status, out } = run(bare, '--json');
    expect(status).toBe(0);
    const plain = JSON.parse(out).captures.find((c: { name: string }) => c.name === 'bare');
    expect(plain).toMatchObject({ rows: 8, noRecall: { value: 1 }, yesRecall: { value: 1 } });
  });

  it('A13 a block that the snapshot does not list is a maybe with its reason, not a crash', () => {
    const odd = table((lines) => lines.slice(0, 2).map((l) => l.replace('loaded2,0,0,none', 'loaded2,999,0,none')));
    const { status, out } = run(odd);
    expect(status).toBe(0);
    expect(out).toContain('not judged: the snapshot does not list it');
  });

  it('A14 no table, two tables or an unknown option: how it is used, exit 2', () => {
    for (const args of [[], ['a', 'b'], ['--nope', 'a']]) {
      const { status, err } = run(...args);
      expect(status).toBe(2);
      expect(err).toMatch(/^usage: npm run accuracy -- TABLE\.csv/);
    }
  });
});
