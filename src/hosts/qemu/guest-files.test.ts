// Files of a guest through its agent: by commands, by file verbs, by either alone.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { gather, gatherAsync } from '#capture/gather';
import { type Capture, type RecordedFile, RecordedTree, runsOf } from '#capture/index';
import { treeFromFiles } from '#kernfs/memory-tree';
import { observe } from '#plan/observation';
import { type FakeMachine, fakeMachine, zoneinfoOf } from '../../../test/support/fake-machine.ts';
import { GuestFiles, guestReach } from './guest-files.ts';
import { BATCH_SCRIPT, batchInput, isPlainName, parseBatch, readOf } from './guest-files-batch.ts';
import { FakeGuest, LIMITS } from './qemu-host.cases.ts';

const GOLDEN = new URL('../../../test/golden/qemu/', import.meta.url);

/** The agent of a made-up machine: what it serves, frame words and refusals included. */
function agentOf(machine: FakeMachine): FakeGuest {
  const words = new Map([...machine.words].map(([path, triples]) => [path, bytesOf(triples)]));
  const denied = new Map([...machine.denied.keys()].map((path) => [path, 'Permission denied']));
  return new FakeGuest(machine.files, words, denied);
}

function bytesOf(triples: readonly (readonly [number, number, number])[]): Uint8Array {
  const runs = runsOf(triples);
  const pairs = new Uint32Array(runs.endPfn * 2);
  let at = 0;
  for (const [lo, hi, frames] of triples)
    for (let k = 0; k < frames; k++) {
      pairs[at++] = lo;
      pairs[at++] = hi;
    }
  return new Uint8Array(pairs.buffer);
}

async function captureOf(
  guest: FakeGuest,
  limits = LIMITS,
): Promise<{ capture: Capture | undefined; files: GuestFiles }> {
  const reach = await guestReach(guest, limits);
  if (!reach.ok) throw new Error(reach.error.sentence);
  const files = new GuestFiles(reach.value, () => performance.now(), limits);
  return { capture: await gatherAsync(files, { kind: 'guest', name: 'qemu:fake' }), files };
}

const filesOf = (capture: Capture | undefined): readonly RecordedFile[] => {
  if (!(capture?.tree instanceof RecordedTree)) throw new Error('not taken for a machine');
  return capture.tree.files;
};
const contentOf = (capture: Capture | undefined): unknown[] => filesOf(capture).map((f) => [f.path, f.kind, f.text]);

const withoutExec = (guest: FakeGuest): FakeGuest => {
  guest.off.add('guest-exec');
  return guest;
};
const withoutFiles = (guest: FakeGuest): FakeGuest => {
  guest.off.add('guest-file-open');
  return guest;
};

describe('a guest captured through its agent', () => {
  const reference = gather(fakeMachine(), { kind: 'guest', name: 'qemu:fake' });

  for (const [how, change] of [
    ['commands and file verbs', (g: FakeGuest) => g],
    ['file verbs only', withoutExec],
    ['commands only', withoutFiles],
  ] as const)
    it(`QH1 with ${how} it is the capture that the machine itself would give`, async () => {
      const { capture, files } = await captureOf(change(agentOf(fakeMachine())));
      expect(files.failed).toBeUndefined();
      expect(contentOf(capture)).toEqual(contentOf(reference));
      for (const pages of ['kpageflags', 'kpagecount', 'kpagecgroup'] as const)
        expect(capture?.[pages], pages).toEqual(reference?.[pages]);
      expect(capture?.problems).toEqual([]);
    });

  it('QH2 some hundred files cost a few commands, and the time of each is when it was read', async () => {
    const guest = agentOf(fakeMachine());
    const { capture } = await captureOf(guest);
    const commands = guest.commands();
    expect(commands.filter((c) => c === 'guest-exec').length).toBeLessThan(20);
    expect(commands.filter((c) => c === 'guest-file-open').length).toBe(3); // the page files
    const zoneinfo = filesOf(capture).find((f) => f.path === '/proc/zoneinfo');
    expect(zoneinfo?.startedMs).toBeLessThanOrEqual(zoneinfo?.endedMs ?? -1);
  });

  it('QH3 what was fetched ahead is given out once: a machine that changes meanwhile is torn', async () => {
    const guest = agentOf(fakeMachine());
    const { files } = guest;
    guest.cut = (command) => {
      if (command === 'guest-file-read') files.set('/proc/zoneinfo', zoneinfoOf([900, 2000]));
      return undefined;
    };
    const { capture } = await captureOf(guest);
    expect(capture?.problems.map((p) => p.kind)).toEqual(['torn']);
    expect(capture?.tree.readText('/proc/zoneinfo')).toBe(zoneinfoOf([1000, 2000]));

    const reach = await guestReach(guest, LIMITS);
    if (!reach.ok) throw new Error(reach.error.sentence);
    const ahead = new GuestFiles(reach.value, () => 0, LIMITS);
    await ahead.soon({ files: ['/proc/version'], directories: ['/proc/sys/vm'] });
    files.set('/proc/version', 'another\n');
    files.set('/proc/sys/vm/swappiness', '60\n');
    const texts = [await ahead.read('/proc/version'), await ahead.read('/proc/version')];
    expect(texts.map((t) => t.kind === 'text' && t.text.split(' ')[0])).toEqual(['Linux', 'another\n']);
    const lists = [await ahead.list('/proc/sys/vm'), await ahead.list('/proc/sys/vm')];
    expect(lists.map((names) => names.includes('swappiness'))).toEqual([false, true]);
  });

  it('QH4 files that may not be read are problems, with either way of reading', async () => {
    for (const change of [(g: FakeGuest) => g, withoutExec]) {
      const machine = fakeMachine();
      for (const path of ['/proc/pagetypeinfo', '/proc/kpageflags'])
        machine.denied.set(path, { kind: 'denied', detail: 'refused' });
      const { capture } = await captureOf(change(agentOf(machine)));
      expect(capture?.problems.map((p) => `${p.file} ${p.kind}`)).toEqual([
        '/proc/pagetypeinfo denied',
        '/proc/kpageflags denied',
      ]);
    }
  });

  it('QH5 output that is not whole is not believed: the file verbs do it', async () => {
    const guest = agentOf(fakeMachine());
    guest.outMax = 100;
    const { capture } = await captureOf(guest);
    expect(contentOf(capture)).toEqual(contentOf(reference));
  });

  it('QH6 a guest without a shell is read by the file verbs', async () => {
    const guest = agentOf(fakeMachine());
    guest.without.add('sh');
    const { capture } = await captureOf(guest);
    expect(contentOf(capture)).toEqual(contentOf(reference));
  });

  it('QH7 a connection that breaks at the n-th request ends it as that failure, or nothing is missing', async () => {
    for (const [change, step] of [
      [(g: FakeGuest) => g, 2],
      [withoutExec, 13],
    ] as const) {
      const whole = change(agentOf(fakeMachine()));
      await captureOf(whole);
      const requests = whole.requests.length;
      expect(requests).toBeGreaterThan(10);
      let failures = 0;
      for (let n = 1; n <= requests; n += step) {
        const guest = change(agentOf(fakeMachine()));
        // From the n-th request on nobody answers.
        guest.cut = () =>
          guest.requests.length >= n ? { kind: 'unreachable', sentence: 'nobody answers' } : undefined;
        const { capture, files } = await captureOf(guest, { deadlineMs: 20 });
        if (files.failed === undefined) expect(contentOf(capture), `n=${n}`).toEqual(contentOf(reference));
        else failures++;
      }
      // Closing a file that was read may fail, at most.
      expect(failures).toBeGreaterThan(requests / step / 2);
    }
  });

  it('QH8 page words beyond 16 GiB of memory come packed, where commands may run, and are the same words', async () => {
    const machine = fakeMachine();
    const frames = 5 * 2 ** 20; // 20 GiB
    machine.words.set('/proc/kpageflags', [
      [0x400, 0, frames - 12345],
      [0x5828, 1, 12345],
    ]);
    for (const path of ['/proc/kpagecount', '/proc/kpagecgroup']) machine.words.delete(path);
    const packed = agentOf(machine);
    const plain = withoutExec(agentOf(machine));
    const a = (await captureOf(packed, { deadlineMs: 60_000 })).capture;
    const b = (await captureOf(plain, { deadlineMs: 60_000 })).capture;
    expect(a?.kpageflags).toEqual(b?.kpageflags);
    expect(a?.kpageflags?.endPfn).toBe(frames);
    const dd = (g: FakeGuest): number =>
      g.requests.filter((r) => JSON.stringify(r.args ?? {}).includes('dd if=/proc/kpageflags')).length;
    expect([dd(packed), dd(plain)]).toEqual([1, 0]);
  });
});

describe('a guest observed through its agent', () => {
  const golden = parseBatch(readFileSync(new URL('observe-6.1.txt', GOLDEN), 'utf8'), '');
  const recorded = (): Map<string, string | undefined> => {
    if (golden === undefined) throw new Error('the recorded output is whole');
    return new Map<string, string | undefined>([
      ...golden.names.map((path) => [path, undefined] as const),
      ...golden.texts,
      ['/sys/devices/system/node/online', '0-1\n'],
    ]);
  };
  const observed = async (guest: FakeGuest): Promise<ReturnType<typeof observe>> => {
    const reach = await guestReach(guest, LIMITS);
    if (!reach.ok) throw new Error(reach.error.sentence);
    return observe(treeFromFiles(await new GuestFiles(reach.value, () => 0, LIMITS).forObservation()));
  };

  it('QH10 a recorded guest: blocks, zones, nodes, free chunks and huge pages', async () => {
    const seen = await observed(new FakeGuest(recorded()));
    if (!seen.ok) throw new Error(seen.error);
    const { value } = seen;
    expect(value.blockBytes).toBe(2 ** 27);
    expect(value.blocks.length).toBe(20);
    expect(value.blocks.find((b) => b.id === 48)).toEqual({
      id: 48,
      state: 'online',
      zone: 'Movable',
      validZones: ['Movable'],
      nodes: [1],
    });
    expect(value.blocks.find((b) => b.id === 49)?.validZones).toEqual(['Normal', 'Movable']);
    expect(value.free.map((f) => `${f.node} ${f.zone}`)).toContain('1 Movable');
    expect(value.hugePages.map((p) => `${p.node} ${p.bytes}`)).toEqual([
      `0 ${2 ** 21}`,
      `0 ${2 ** 30}`,
      `1 ${2 ** 21}`,
      `1 ${2 ** 30}`,
    ]);
  });

  it('QH11 it costs one command; without commands, names that open give the same', async () => {
    const one = new FakeGuest(recorded());
    const many = withoutExec(new FakeGuest(recorded()));
    expect(await observed(many)).toEqual(await observed(one));
    expect(one.commands()).toEqual(['guest-exec', 'guest-exec-status']);
  });

  it('QH12 a block that went away while it was looked at is not there', async () => {
    const files = recorded();
    files.delete('/sys/devices/system/memory/memory48/state');
    const seen = await observed(new FakeGuest(files));
    expect(seen.ok && seen.value.blocks.map((b) => b.id)).not.toContain(48);
    expect(seen.ok && seen.value.blocks.length).toBe(19);
  });
});

describe('many files in one command', () => {
  const shells = ['sh', 'busybox'].filter((shell) => {
    try {
      execFileSync(shell, shell === 'sh' ? ['-c', 'true'] : ['true'], { stdio: 'ignore' });
      return true;
    } catch {
      return false; // that one is not on this machine
    }
  });

  it('QH13 a real shell, xargs and grep print what is read of it, busybox too where it is there', () => {
    expect(shells).toContain('sh');
    const root = mkdtempSync(join(tmpdir(), 'dimmer-batch-'));
    try {
      mkdirSync(join(root, 'a.b'));
      mkdirSync(join(root, 'empty'));
      const files = { 'a.b/one': 'x: y\n', 'a.b/two': 'l1\n\nl3 \n', 'a.b/none': '' };
      for (const [name, text] of Object.entries(files)) writeFileSync(join(root, name), text);
      for (const shell of shells) {
        const input = batchInput({
          directories: [`${root}/a.b`, `${root}/empty`, `${root}/nosuch`],
          files: [...Object.keys(files), 'absent'].map((f) => `${root}/${f}`),
        });
        const args = shell === 'sh' ? ['-c', BATCH_SCRIPT] : ['sh', '-c', BATCH_SCRIPT];
        const errors = join(root, `errors-${shell}`);
        const out = execFileSync('sh', ['-c', `exec "$@" 2>${errors}`, 'sh', shell, ...args], { input }).toString();
        const batch = parseBatch(out, readFileSync(errors, 'utf8'));
        if (batch === undefined) throw new Error(`${shell}: ${out}`);
        expect(batch.names, shell).toEqual([`${root}/a.b/none`, `${root}/a.b/one`, `${root}/a.b/two`]);
        for (const [name, text] of Object.entries(files))
          expect(readOf(batch, `${root}/${name}`), shell).toEqual({ kind: 'text', text });
        expect(readOf(batch, `${root}/absent`).kind, shell).toBe('absent');
      }
    } finally {
      rmSync(root, { recursive: true });
    }
  });

  it('QH14 names that a shell or xargs would take apart are never put into a command', () => {
    expect(isPlainName('/sys/devices/system/memory/memory32/state')).toBe(true);
    for (const path of [
      "/proc/a'b",
      '/proc/a b',
      '/proc/a\\b',
      '/proc/$x',
      '/proc/a*',
      '/proc/a\nb',
      'proc/x',
      '/proc/a:b',
    ])
      expect(isPlainName(path), path).toBe(false);
  });
});
