// Lock file: who lives and who is gone. Rules in docs/spec/executor.md.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lockFile } from './lock-file.ts';

let dir = '';
let proc = '';
beforeAll(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'dimmer-lock-'));
  proc = path.join(dir, 'proc');
  fs.mkdirSync(path.join(proc, 'sys/kernel/random'), { recursive: true });
  fs.writeFileSync(path.join(proc, 'sys/kernel/random/boot_id'), 'boot-1\n');
});
afterAll(() => fs.rmSync(dir, { recursive: true }));

/** A process as the kernel tells of it: 52 fields, the name with a parenthesis, the 22nd its start time. */
function processIs(pid: number, start: number | undefined, state = 'S'): void {
  const at = path.join(proc, String(pid));
  if (start === undefined) return fs.rmSync(at, { recursive: true, force: true });
  fs.mkdirSync(at, { recursive: true });
  const fields = Array.from({ length: 50 }, (_, k) => (k === 0 ? state : k === 19 ? start : 0));
  fs.writeFileSync(path.join(at, 'stat'), `${pid} (a b) c) ${fields.join(' ')}\n`);
}
const leftovers = (file: string): string[] =>
  fs.readdirSync(dir).filter((f) => f.startsWith(`${path.basename(file)}.`));

describe('lock file', () => {
  it('JN11 one of two has it until he gives it back; the other is told who', async () => {
    const file = path.join(dir, 'a.lock');
    processIs(10, 100);
    processIs(20, 200);
    const first = await lockFile(file, { proc, pid: 10 }).acquire();
    if (!first.ok) throw new Error(first.error.sentence);
    const second = await lockFile(file, { proc, pid: 20 }).acquire();
    expect(second).toMatchObject({ error: { kind: 'refused' } });
    expect(!second.ok && second.error.sentence).toContain('process 10');
    await first.value();
    expect(fs.existsSync(file)).toBe(false);
    const third = await lockFile(file, { proc, pid: 20 }).acquire();
    expect(third.ok).toBe(true);
    await first.value(); // a second time: not his any more
    expect(fs.existsSync(file)).toBe(true);
    expect(leftovers(file)).toEqual([]);
  });

  it('JN12 an owner that is gone is taken over: no such process, another of that number, a zombie, another boot', async () => {
    for (const after of ['gone', 'reused', 'zombie', 'boot'] as const) {
      const file = path.join(dir, `${after}.lock`);
      processIs(10, 100);
      processIs(20, 200);
      await lockFile(file, { proc, pid: 10 }).acquire();
      if (after === 'gone') processIs(10, undefined);
      if (after === 'reused') processIs(10, 101);
      if (after === 'zombie') processIs(10, 100, 'Z');
      const boot = path.join(proc, 'sys/kernel/random/boot_id');
      if (after === 'boot') fs.writeFileSync(boot, 'boot-2\n');
      const taken = await lockFile(file, { proc, pid: 20 }).acquire();
      fs.writeFileSync(boot, 'boot-1\n');
      expect(taken.ok, after).toBe(true);
      expect(JSON.parse(fs.readFileSync(file, 'utf8')).pid, after).toBe(20);
      expect(leftovers(file)).toEqual([]);
    }
  });

  it('JN12 of many that take over at once, one has it', async () => {
    const file = path.join(dir, 'many.lock');
    processIs(10, 100);
    await lockFile(file, { proc, pid: 10 }).acquire();
    processIs(10, undefined);
    const pids = Array.from({ length: 20 }, (_, k) => 30 + k);
    for (const pid of pids) processIs(pid, pid);
    const all = await Promise.all(pids.map((pid) => lockFile(file, { proc, pid }).acquire()));
    expect(all.filter((r) => r.ok).length).toBe(1);
    expect(leftovers(file)).toEqual([]);
  });

  it('JN13 a file that is no lock, a takeover that was left behind, a place that cannot be written: refused in words', async () => {
    const file = path.join(dir, 'odd.lock');
    fs.writeFileSync(file, 'hello\n');
    expect(await lockFile(file, { proc, pid: 20 }).acquire()).toMatchObject({ error: { kind: 'refused' } });
    expect(fs.readFileSync(file, 'utf8')).toBe('hello\n');
    fs.writeFileSync(`${file}.takeover`, '');
    const left = await lockFile(file, { proc, pid: 20 }).acquire();
    expect(!left.ok && left.error.sentence).toContain(`remove ${file}.takeover`);
    expect(await lockFile(path.join(dir, 'no/dir'), { proc }).acquire()).toMatchObject({ error: { kind: 'denied' } });
  });

  it('JN11 this very process, by the real /proc', async () => {
    const file = path.join(dir, 'me.lock');
    const mine = await lockFile(file).acquire();
    expect(await lockFile(file).acquire()).toMatchObject({ error: { kind: 'refused' } });
    if (mine.ok) await mine.value();
    expect((await lockFile(file).acquire()).ok).toBe(true);
  });
});
