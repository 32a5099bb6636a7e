// Journal file: what is on the disk after each way of failing. Rules in docs/spec/executor.md.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ExecuteOptions, execute, resume } from '#control/executor';
import { MemoryJournal, removalPlan, stateOf, twinWorld } from '../../../test/support/twin-world.ts';
import { createJournal, JournalFile, type JournalHandle, openJournal } from './journal-file.ts';

let dir = '';
beforeAll(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'dimmer-journal-'));
});
afterAll(() => fs.rmSync(dir, { recursive: true }));

/** A file in memory that has room for so many bytes. */
function fullDisk(room: number) {
  const state = { text: '', syncs: 0 };
  const handle: JournalHandle = {
    async write(data) {
      const some = Math.min(data.length, 7, room - state.text.length);
      if (some <= 0) throw Object.assign(new Error('full'), { code: 'ENOSPC' });
      state.text += new TextDecoder().decode(data.subarray(0, some));
      return { bytesWritten: some };
    },
    async sync() {
      state.syncs++;
    },
    async truncate(bytes) {
      state.text = state.text.slice(0, bytes);
    },
    async close() {},
  };
  return { state, handle };
}

describe('journal file', () => {
  it('JN7 a new journal is a new file for its owner only; one that is there is never overwritten', async () => {
    const file = path.join(dir, 'new.journal');
    const made = await createJournal(file);
    if (!made.ok) throw new Error(made.error.sentence);
    expect((await made.value.append('a\n')).ok).toBe(true);
    await made.value.close();
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
    expect(await createJournal(file)).toMatchObject({ error: { kind: 'refused' } });
    expect(fs.readFileSync(file, 'utf8')).toBe('a\n');
    expect(await createJournal(path.join(dir, 'no', 'dir'))).toMatchObject({ error: { kind: 'refused' } });
  });

  it('JN8 each line is flushed before its append comes back; short writes are gone on with', async () => {
    const { state, handle } = fullDisk(1000);
    const journal = new JournalFile('f', handle, 0);
    await journal.append('a line of more than seven bytes\n');
    expect(state).toEqual({ text: 'a line of more than seven bytes\n', syncs: 1 });
  });

  it('JN9 a full disk: the line fails, no half of it stays, and no later line is written even when there is room', async () => {
    const { state, handle } = fullDisk(40);
    const journal = new JournalFile('f', handle, 0);
    expect((await journal.append('a line of more than seven bytes\n')).ok).toBe(true);
    const failed = await journal.append('another one\n');
    expect(failed).toMatchObject({ error: { kind: 'refused', sentence: 'journal f: no space is left on the disk' } });
    expect(state.text).toBe('a line of more than seven bytes\n');
    expect(await journal.append('b\n')).toEqual(failed);
    expect(state.text).toBe('a line of more than seven bytes\n');
  });

  it('JN10 to resume, a torn line is cut off and the journal goes on behind it; a damaged one is not touched', async () => {
    const host = twinWorld();
    const options = (journal: ExecuteOptions['journal']): ExecuteOptions => ({
      journal,
      clock: host.clock,
      signal: new AbortController().signal,
    });
    const cut = new MemoryJournal({ cut: { line: 3, keep: 30 } });
    void execute(removalPlan(host), host, options(cut));
    await cut.death;
    const file = path.join(dir, 'torn.journal');
    fs.writeFileSync(file, cut.text);
    const opened = await openJournal(file);
    if (!opened.ok) throw new Error(opened.error.sentence);
    expect(cut.text.startsWith(opened.value.text)).toBe(true);
    const report = await resume(opened.value.text, host, options(opened.value.journal));
    await opened.value.journal.close();
    expect(report).toMatchObject({ value: { end: 'done' } });
    expect(stateOf(host).some((l) => l.startsWith('dimm'))).toBe(false);
    const again = await openJournal(file);
    expect(again.ok && again.value.text).toBe(fs.readFileSync(file, 'utf8'));

    const bad = path.join(dir, 'bad.journal');
    fs.writeFileSync(bad, cut.text.replace('offline', 'OFFLINE'));
    expect(await openJournal(bad)).toMatchObject({ error: { reason: 'damaged', line: 1 } });
    expect(fs.readFileSync(bad, 'utf8')).toContain('OFFLINE');
    expect(await openJournal(path.join(dir, 'none'))).toMatchObject({ error: { kind: 'refused' } });
  });
});
