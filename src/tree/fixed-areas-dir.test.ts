// /sys/kernel/mm/fixed_areas, read and written.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { treeFromFiles } from '#kernfs/memory-tree';
import { addBuffer, addDevice, DmaMonitor, deviceClock } from '#mm/fixed-areas/device-model';
import { fixedAreas } from '#mm/fixed-areas/fixed-areas';
import { PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { extent } from '#mm/pools/dma-extent';
import { kernelTree } from './kernel-tree.ts';

const DIR = '/sys/kernel/mm/fixed_areas';
const BASE = 2 ** 20;
const BLOCK = 32768;

const boot = (): Machine =>
  Machine.boot({ ram: [{ start: toPfn(BASE), end: toPfn(BASE + 4 * BLOCK), node: toNodeId(0) }], code: 'shared' });

describe('/sys/kernel/mm/fixed_areas', () => {
  it('FX27 says who, where, what was refused and why, and marks what is not to be removed', () => {
    const m = boot();
    const fs = kernelTree(m);
    const cat = (file: string): string => fs.readText(`${DIR}/${file}`) ?? `no ${file}`;
    expect(fs.list(DIR)).toEqual(['drivers', 'handles', 'incompatible', 'non_removable', 'refused', 'worked_around']);
    expect(fs.list(DIR).map(cat)).toEqual(['', '', '', '', '', '0\n']);

    const holder = m.addHolder({ class: 'driver', name: 'old0' });
    m.alloc(holder, toOrder(1));
    addDevice(m, { name: 'old0', caps: ['hostRemap'] }, holder);
    addDevice(m, { name: 'nic0', manner: 'hangs' });
    addBuffer(m, 'nic0', { bytes: 5 * PAGE_SIZE, reason: 'ring' });
    addBuffer(m, 'old0', { bytes: 1, reason: 'mailbox' });
    const clock = deviceClock(new DmaMonitor());
    const whole = extent(BASE, BASE + BLOCK);
    expect(fixedAreas(m).relinquish(whole, { deadlineMs: 50, clock }).ok).toBe(false);

    const at = BASE * PAGE_SIZE;
    const ffff = (pages: number): string => (at + pages * PAGE_SIZE - 1).toString(16);
    expect(cat('drivers')).toBe(
      'old0 alive hostRemap max_quiesce_ms=10 areas=1 pages=2\n' +
        'nic0 alive relinquish,reacquire,quiesce max_quiesce_ms=10 areas=1 pages=5\n',
    );
    expect(cat('incompatible')).toBe(
      `1.1 old0 HELD 0x${at.toString(16)}-0x${ffff(2)} pages=2 last=- had before it registered\n`,
    );
    expect(cat('handles').split('\n')[1]).toMatch(/^2\.1 nic0 HELD 0x10000\w+-0x10000\w+ pages=5 last=TIMEOUT ring$/);
    const [request, late] = cat('refused').trim().split('\n');
    expect(request).toMatch(/^0 old0 0 REFUSED ENXIO old0 is not compatible with memory hotplug: /);
    expect(late).toBe('10 nic0 2 TIMEOUT ETIMEDOUT busy for 10 ms');

    const write = (text: string) => fs.write(`${DIR}/non_removable`, text);
    expect(['', 'all', '0x100000000-0x100000fff', '0x1001fffff-0x100000000'].slice(1).map(write)).toEqual(
      Array(3).fill('EINVAL'),
    );
    const range = '0x118000000-0x1181fffff\n';
    expect(write(range)).toBe(range.length);
    expect(cat('non_removable')).toBe(range);
    expect(addBuffer(m, 'old0', { bytes: 1, reason: 'mailbox' }).ok).toBe(true);
    expect(cat('incompatible')).toContain('3.1 old0 HELD 0x118000000-0x118000fff pages=1 last=- mailbox\n');
    expect(fs.write(`${DIR}/handles`, '1')).toBe('EACCES');
    expect(m.check()).toEqual([]);
  });

  it('FX27 a twin lists it once a driver has registered; it can be entered before', () => {
    const m = boot();
    const fs = kernelTree(m, { base: treeFromFiles(new Map()) });
    expect([fs.list('/sys/kernel/mm').includes('fixed_areas'), fs.readText(`${DIR}/worked_around`)]).toEqual([
      false,
      '0\n',
    ]);
    addDevice(m, { name: 'nic0' });
    expect(fs.list('/sys/kernel/mm')).toContain('fixed_areas');
  });
});
