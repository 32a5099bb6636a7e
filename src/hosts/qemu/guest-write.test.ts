// Writes to a guest's kernel files: errno, deadline, a signal in the middle.

import { Buffer } from 'node:buffer';
import { describe, expect, it } from 'vitest';
import { ok } from '#base/result';
import { type GuestReach, guestReach } from './guest-files.ts';
import { guestSeconds, guestSync, guestWrite, outcomeOf } from './guest-write.ts';
import { FakeGuest, LIMITS } from './qemu-host.cases.ts';
import type { ExecResult } from './qga-verbs.ts';

const STATE = '/sys/devices/system/memory/memory34/state';

const guestWith = (): FakeGuest => new FakeGuest(new Map([[STATE, 'online\n']]));

async function reachOf(guest: FakeGuest, ...off: string[]): Promise<GuestReach> {
  for (const verb of off) guest.off.add(verb);
  const reach = await guestReach(guest, LIMITS);
  if (!reach.ok) throw new Error(reach.error.sentence);
  return reach.value;
}

const ended = (exitCode: number | undefined, err = '', signal?: number): ReturnType<typeof outcomeOf> => {
  const run: ExecResult = {
    exitCode,
    signal,
    out: new Uint8Array(),
    err: Buffer.from(err),
    truncated: false,
  };
  return outcomeOf(ok(run), 'write "offline"', 4);
};

describe('a write to a kernel file of a guest', () => {
  it('QH20 the word goes through dd under a timeout that is shorter than the caller waits, in whole seconds', async () => {
    const guest = guestWith();
    const done = await guestWrite(await reachOf(guest), STATE, 'offline', { deadlineMs: 10_000 });
    expect(done.ok).toBe(true);
    expect(guest.requests[0]).toEqual({
      command: 'guest-exec',
      args: {
        path: 'timeout',
        arg: ['8', 'dd', `of=${STATE}`, 'bs=64'],
        env: ['LC_ALL=C', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin'],
        'input-data': Buffer.from('offline').toString('base64'),
        'capture-output': true,
      },
    });
    expect(guest.writes).toEqual([`${STATE} offline`]);
    expect([100, 2500, 3600_000].map(guestSeconds)).toEqual([1, 1, 3598]);
  });

  it("QH21 a refusal has the kernel's errno, from dd's words, GNU's and busybox's", () => {
    const said = (line: string): unknown => {
      const outcome = ended(1, `${line}\n0+1 records in\n0+0 records out\n0 bytes copied, 0.1 s, 0.0 kB/s\n`);
      return outcome === 'cannot-run' || outcome.ok
        ? outcome
        : [outcome.error.kind, outcome.error.errno, outcome.error.evidence];
    };
    for (const [line, kind, errno] of [
      [`dd: error writing '${STATE}': Device or resource busy`, 'refused', 'EBUSY'],
      [`dd: writing '${STATE}': Invalid argument`, 'refused', 'EINVAL'],
      [`dd: can't open '${STATE}': No such file or directory`, 'refused', 'ENOENT'],
      [`dd: failed to open '${STATE}': Permission denied`, 'denied', 'EACCES'],
      [`dd: error writing '${STATE}': Cannot allocate memory`, 'refused', 'ENOMEM'],
    ])
      expect(said(line)).toEqual([kind, errno, [line]]);
  });

  it('QH22 time over is told as such, with EINTR: exit 124, or the signal, or 128 and the signal', () => {
    for (const outcome of [ended(124), ended(undefined, '', 15), ended(undefined, '', 9), ended(143), ended(137)]) {
      if (outcome === 'cannot-run' || outcome.ok) throw new Error('it is late');
      expect(outcome.error.kind).toBe('timeout');
      expect(outcome.error.errno).toBe('EINTR');
      expect(outcome.error.sentence).toContain('ended in the guest');
    }
    // An agent that passes no input on: dd has nothing to write, and is content.
    const empty = ended(0, '0+0 records in\n0+0 records out\n');
    expect(empty !== 'cannot-run' && !empty.ok && empty.error.kind).toBe('protocol');
    // Another signal is nobody's plan.
    const other = ended(undefined, '', 11);
    expect(other !== 'cannot-run' && !other.ok && other.error.kind).toBe('protocol');
  });

  it('QH23 without guest-exec the file verbs do it, with the same words for a refusal', async () => {
    const texts: string[] = [];
    for (const off of [[], ['guest-exec']]) {
      const guest = guestWith();
      guest.onWrite = () => ({ refused: 'Device or resource busy' });
      const refused = await guestWrite(await reachOf(guest, ...off), STATE, 'offline', LIMITS);
      if (refused.ok) throw new Error('it is refused');
      expect(refused.error.errno).toBe('EBUSY');
      expect(guest.writes.length).toBe(1);
      texts.push(refused.error.sentence);
    }
    expect(texts[0]).toBe(`write "offline" to ${STATE}: Device or resource busy`);
    expect(texts[1]).toBe(texts[0]);
  });

  it('QH24 a guest without timeout is written to by the file verbs, or told to lack it, and never twice', async () => {
    const guest = guestWith();
    guest.without.add('timeout');
    const done = await guestWrite(await reachOf(guest), STATE, 'offline', LIMITS);
    expect(done.ok && done.value.evidence[0]).toContain('without a deadline in the guest');
    expect(guest.writes).toEqual([`${STATE} offline`]);
    const lacking = await guestWrite(await reachOf(guest, 'guest-file-write'), STATE, 'offline', LIMITS);
    expect(!lacking.ok && lacking.error.kind).toBe('unsupported');
    expect(guest.writes.length).toBe(1);
    // busybox before 1.30 takes "timeout -t SECS", and would run a program named 5.
    expect(ended(127, "timeout: can't execute '5': No such file or directory\n")).toBe('cannot-run');
  });

  it('QH25 a write that the caller gives up is ended in the guest', async () => {
    const guest = guestWith();
    guest.onWrite = () => 'hangs';
    const stop = new AbortController();
    const write = guestWrite(await reachOf(guest), STATE, 'offline', { deadlineMs: 60_000, signal: stop.signal });
    setTimeout(() => stop.abort(), 30);
    const outcome = await write;
    expect(!outcome.ok && outcome.error.kind).toBe('cancelled');
    expect(!outcome.ok && outcome.error.sentence).toContain('has ended');
    const kill = guest.requests.find((r) => JSON.stringify(r.args ?? {}).includes('kill -TERM'));
    expect(kill).toBeDefined();
  });

  it('QH29 an agent that was restarted meanwhile knows nothing of the write; the guest ends it all the same', async () => {
    // The second is not known to happen: whatever a look is refused with, the word is not written again by other means.
    for (const [desc, kind] of [
      ["Invalid parameter 'pid'", 'disconnected'],
      ['something else', 'refused'],
    ]) {
      const guest = guestWith();
      guest.onWrite = () => 'hangs';
      let looks = 0;
      guest.cut = (command) => {
        if (command !== 'guest-exec-status' || ++looks !== 2) return undefined;
        const sentence = `the guest's agent refused guest-exec-status: ${desc}`;
        return { kind: 'refused', sentence, evidence: [`GenericError: ${desc}`] };
      };
      const lost = await guestWrite(await reachOf(guest), STATE, 'offline', { deadlineMs: 10_000 });
      expect(!lost.ok && lost.error.kind).toBe(kind);
      expect(guest.writes.length).toBe(1);
      if (kind === 'disconnected') expect(!lost.ok && lost.error.sentence).toContain('ends it after 8 s at the latest');
    }
  });

  it('QH26 by the file verbs a write that hangs goes on, and that is said', async () => {
    const guest = guestWith();
    guest.onWrite = () => 'hangs';
    const late = await guestWrite(await reachOf(guest, 'guest-exec'), STATE, 'offline', LIMITS);
    expect(!late.ok && late.error.kind).toBe('timeout');
    expect(!late.ok && late.error.sentence).toContain('it goes on');
  });

  it('QH27 nothing but words of kernel files is ever written', async () => {
    const guest = guestWith();
    const reach = await reachOf(guest);
    for (const [path, text] of [
      ['/etc/passwd', 'x'],
      ['/sys/../etc/passwd', 'x'],
      [`${STATE} of=/etc/passwd`, 'offline'],
      [STATE, 'off line'],
      [STATE, ''],
    ] as const)
      await expect(guestWrite(reach, path, text, LIMITS), path).rejects.toThrow();
    expect(guest.requests).toEqual([]);
  });

  it('QH28 an agent that may do neither is denied; a sync is done, or told not to have been', async () => {
    const guest = guestWith();
    const none = await reachOf(guest, 'guest-exec', 'guest-file-write');
    const denied = await guestWrite(none, STATE, 'offline', LIMITS);
    expect(!denied.ok && denied.error.kind).toBe('denied');
    expect(await guestSync(none, LIMITS)).toEqual(ok(false));
    expect(await guestSync(await reachOf(guestWith()), LIMITS)).toEqual(ok(true));
  });
});
