// Taking a DIMM out: each event that may come, and none.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ok } from '#base/result';
import type { Limits } from '#control/host';
import { parseEvent } from './events.ts';
import { CLOCK, FakeQemu, LIMITS } from './qemu-host.cases.ts';
import type { QmpFailure } from './qmp-port.ts';
import { type NotOffline, removeDimm } from './unplug.ts';

const GiB = 2 ** 30;
const ADDR = 0x140000000;
const REMOVE = { do: 'remove-dimm', id: 'dimm1', memdev: 'mem-dimm1' } as const;

function withDimm(): FakeQemu {
  const qemu = new FakeQemu();
  qemu.dimm('dimm1', ADDR, GiB);
  return qemu;
}

const allOffline: NotOffline = async () => ok([]);
const remove = (
  monitor: FakeQemu,
  notOffline: NotOffline = allOffline,
  limits: Limits = LIMITS,
): ReturnType<typeof removeDimm> => removeDimm({ monitor, clock: CLOCK, notOffline }, REMOVE, limits);

type Line = { readonly dir: '<' | '>'; readonly line: Record<string, unknown> & { arguments?: { id: string } } };
const recorded = readFileSync(new URL('../../../test/golden/qemu/unplug-7.2.jsonl', import.meta.url), 'utf8')
  .trim()
  .split('\n')
  .map((text) => JSON.parse(text) as Line);

/** After the device_del of that recorded device: its events, under the name that the test has for it. */
function recordedEvents(device: string): Record<string, unknown>[] {
  const from = recorded.findIndex((l) => l.dir === '>' && l.line.arguments?.id === device);
  const next = recorded.findIndex((l, k) => k > from && l.dir === '>');
  return recorded
    .slice(from, next < 0 ? undefined : next)
    .filter((l) => l.dir === '<' && 'event' in l.line)
    .map((l) =>
      JSON.parse(JSON.stringify(l.line).replaceAll(`"${device}"`, '"dimm1"').replace(`/${device}"`, '/dimm1"')),
    );
}

function replay(qemu: FakeQemu, device: string): void {
  for (const line of recordedEvents(device)) {
    const event = parseEvent(line);
    if (event === undefined) throw new Error('a recorded event');
    if (event.event === 'DEVICE_DELETED') qemu.devices = [];
    qemu.log.push(event);
  }
}

describe('a DIMM is taken out', () => {
  it('QH40 not while a block of it is not offline inside the guest: nothing is sent', async () => {
    const qemu = withDimm();
    let asked: readonly number[] = [];
    const refused = await remove(qemu, async (addr, size) => {
      asked = [addr, size];
      return ok(['42 online', '43 going-offline']);
    });
    expect(asked).toEqual([ADDR, GiB]);
    expect(!refused.ok && [refused.error.kind, refused.error.errno]).toEqual(['refused', 'EBUSY']);
    expect(!refused.ok && refused.error.evidence).toEqual(['block 42 online', 'block 43 going-offline']);
    expect(qemu.commands()).toEqual(['query-memory-devices']);
  });

  it('QH41 recorded: it goes, and its memory is freed', async () => {
    const qemu = withDimm();
    qemu.onUnplug = () => replay(qemu, 'c3');
    const done = await remove(qemu);
    if (!done.ok) throw new Error(done.error.sentence);
    expect(done.value.evidence.map((e) => e.split(' ')[0])).toEqual([
      'device_del',
      'ACPI_DEVICE_OST',
      'DEVICE_DELETED',
      'object-del',
    ]);
    expect(qemu.backends.map((b) => b.id)).toEqual(['ram0']);
  });

  it('QH42 recorded: the guest keeps it, which only an OST status tells; the DIMM and its memory stay', async () => {
    const qemu = withDimm();
    qemu.onUnplug = () => replay(qemu, 'c5');
    const refused = await remove(qemu);
    expect(!refused.ok && [refused.error.kind, refused.error.errno]).toEqual(['refused', 'EBUSY']);
    expect(!refused.ok && refused.error.sentence).toContain('busy');
    expect(!refused.ok && refused.error.evidence?.join('\n')).toContain('"status":130');
    expect(qemu.backends.map((b) => b.id)).toEqual(['ram0', 'mem-dimm1']);
    expect(qemu.commands()).not.toContain('object-del');
  });

  it('QH43 the other events of a refusal are understood, and those of other devices are not ours', async () => {
    for (const [event, data] of [
      ['MEM_UNPLUG_ERROR', { device: 'dimm1', msg: 'it is in use' }],
      ['DEVICE_UNPLUG_GUEST_ERROR', { device: 'dimm1', path: '/machine/peripheral/dimm1' }],
      ['ACPI_DEVICE_OST', { info: { device: 'dimm1', source: 3, status: 0x83, slot: '0', 'slot-type': 'DIMM' } }],
    ] as const) {
      const qemu = withDimm();
      qemu.onUnplug = () => {
        qemu.ost('dimm2', 130);
        qemu.say('DEVICE_DELETED', { device: 'dimm2', path: '/machine/peripheral/dimm2' });
        qemu.say('DEVICE_DELETED', { path: '/machine/peripheral/dimm11/x' });
        // Of the add before: an insertion that the guest's kernel did not like is no refused ejection.
        qemu.say('ACPI_DEVICE_OST', {
          info: { device: 'dimm1', source: 1, status: 1, slot: '0', 'slot-type': 'DIMM' },
        });
        qemu.say(event, data);
      };
      const refused = await remove(qemu);
      expect(!refused.ok && refused.error.errno, event).toBe('EBUSY');
      expect(!refused.ok && refused.error.evidence?.length, event).toBe(3);
    }
  });

  it('QH44 an event that was lost in a cut is found by asking for the devices', async () => {
    const qemu = withDimm();
    qemu.onUnplug = () => {
      qemu.log.push({ cut: 'the connection broke' });
      qemu.devices = [];
    };
    const done = await remove(qemu);
    expect(done.ok && done.value.evidence.join('\n')).toContain('does not name DIMM dimm1 any more');
    expect(qemu.commands().filter((c) => c === 'device_del').length).toBe(1);
  });

  it('QH45 one that is under way already is waited for, not asked for again', async () => {
    const qemu = withDimm();
    qemu.cut = (command): QmpFailure | undefined => {
      if (command !== 'device_del') return undefined;
      setTimeout(() => qemu.gone('dimm1'), 20);
      const desc = 'Device dimm1 is already in the process of unplug';
      return { kind: 'refused', sentence: `QEMU refused device_del: ${desc}`, evidence: [`GenericError: ${desc}`] };
    };
    const done = await remove(qemu);
    expect(done.ok && done.value.evidence[0]).toContain('asked before');
    expect(qemu.commands().filter((c) => c === 'device_del').length).toBe(1);
  });

  it('QH46 a guest that says nothing is late, and may still do it; a caller who gives up is told the same', async () => {
    const qemu = withDimm();
    qemu.onUnplug = () => qemu.ost('dimm1', 132);
    const late = await remove(qemu, allOffline, { deadlineMs: 60 });
    expect(!late.ok && late.error.kind).toBe('timeout');
    expect(!late.ok && late.error.sentence).toContain('may still');
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 20);
    const given = await remove(qemu, allOffline, { deadlineMs: 5000, signal: stop.signal });
    expect(!given.ok && given.error.kind).toBe('cancelled');
    expect(qemu.backends.length).toBe(2);
  });

  it('QH47 a reply that was lost is no refusal: what became of it is waited for', async () => {
    const qemu = withDimm();
    qemu.cut = (command): QmpFailure | undefined => {
      if (command !== 'device_del') return undefined;
      qemu.onUnplug('dimm1');
      return { kind: 'disconnected', sentence: 'the connection broke before it answered' };
    };
    expect((await remove(qemu)).ok).toBe(true);
    expect(qemu.backends.map((b) => b.id)).toEqual(['ram0']);
  });

  it('QH47 a request that was lost on its way is told as such, long before the deadline, and does no harm when it comes again', async () => {
    const qemu = withDimm();
    let cuts = 0;
    qemu.cut = (command): QmpFailure | undefined =>
      command === 'device_del' && cuts++ === 0
        ? { kind: 'disconnected', sentence: 'the connection broke before it answered' }
        : undefined;
    const lost = await remove(qemu, allOffline, { deadlineMs: 60_000 });
    expect(!lost.ok && lost.error.kind).toBe('disconnected');
    expect((await remove(qemu)).ok).toBe(true);
    expect(qemu.commands().filter((c) => c === 'device_del').length).toBe(2);
  });

  it('QH48 memory that a removal left behind is freed by the next; with neither there is nothing to remove', async () => {
    const qemu = withDimm();
    qemu.devices = [];
    expect((await remove(qemu)).ok).toBe(true);
    expect(qemu.backends.map((b) => b.id)).toEqual(['ram0']);
    const nothing = await remove(qemu);
    expect(!nothing.ok && nothing.error.errno).toBe('ENOENT');
    // QEMU lets go of a backend a moment after its device.
    const slow = withDimm();
    for (const b of slow.backends) if (b.id === 'mem-dimm1') b.busy = true;
    expect((await remove(slow)).ok).toBe(true);
    expect(slow.commands().filter((c) => c === 'object-del').length).toBe(2);
  });
});
