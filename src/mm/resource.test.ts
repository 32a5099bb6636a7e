// Who has which physical addresses: requests, merging, release in parts. Rules in docs/spec/hotplug-life.md; against a naive
// map of addresses: resource.fuzz.ts.

import { describe, expect, it } from 'vitest';
import { Resources } from './resource.ts';

/** As /proc/iomem prints it, one line a resource. */
const lines = (r: Resources): string[] => {
  const out: string[] = [];
  r.forEach(({ start, end, name }, depth) => {
    out.push(`${' '.repeat(2 * depth)}${start.toString(16)}-${end.toString(16)} : ${name}`);
  });
  return out;
};

/** A guest with a virtio-mem device at 5 GiB: its region is not busy. */
const guest = (): Resources =>
  new Resources([
    { start: 0x140000000, end: 0x33fffffff, name: 'virtio0', busy: false },
    {
      start: 0x100000,
      end: 0xbffdffff,
      name: 'System RAM',
      children: [{ start: 0x1000000, end: 0x1ffffff, name: 'Kernel code' }],
    },
    { start: 0xc0000000, end: 0xfebfffff, name: 'PCI Bus 0000:00', busy: false },
  ]);

describe('resources', () => {
  it('RS1 children are drawn inside of their parent, siblings ascend', () => {
    expect(lines(guest())).toEqual([
      '100000-bffdffff : System RAM',
      '  1000000-1ffffff : Kernel code',
      'c0000000-febfffff : PCI Bus 0000:00',
      '140000000-33fffffff : virtio0',
    ]);
  });

  it('RS2 a busy resource in the way refuses the request, and is named; nothing changes', () => {
    const r = guest();
    const before = lines(r);
    expect(r.request(0xb0000000, 0xb7ffffff, 'System RAM')).toMatchObject({ ok: false, error: { name: 'System RAM' } });
    expect(r.request(0xbffdffff, 0xbfffffff, 'System RAM')).toMatchObject({ ok: false, error: { end: 0xbffdffff } });
    expect(lines(r)).toEqual(before);
  });

  it('RS3 a resource that is not busy becomes the parent, if the request fits into it; half in, half out is refused', () => {
    const r = guest();
    expect(r.request(0x140000000, 0x147ffffff, 'System RAM (virtio_mem)').ok).toBe(true);
    expect(r.request(0x338000000, 0x347ffffff, 'System RAM')).toMatchObject({ ok: false, error: { name: 'virtio0' } });
    expect(r.request(0x100000000, 0x3ffffffff, 'System RAM')).toMatchObject({ ok: false, error: { name: 'virtio0' } });
    expect(lines(r).slice(-2)).toEqual([
      '140000000-33fffffff : virtio0',
      '  140000000-147ffffff : System RAM (virtio_mem)',
    ]);
    expect(r.request(0x147ffffff, 0x14fffffff, 'x')).toMatchObject({ error: { name: 'System RAM (virtio_mem)' } });
  });

  it('RS4 neighbours stay apart, unless both asked for merging and have one name, one parent and no children', () => {
    const r = guest();
    const add = (start: number, end: number, name = 'System RAM (virtio_mem)') => {
      const got = r.request(start, end, name);
      if (!got.ok) throw new Error('refused');
      return got.value;
    };
    r.merge(add(0x150000000, 0x157ffffff));
    r.merge(add(0x140000000, 0x147ffffff));
    expect(lines(r)).toContain('  140000000-147ffffff : System RAM (virtio_mem)');
    const between = add(0x148000000, 0x14fffffff);
    add(0x158000000, 0x15fffffff); // did not ask
    r.merge(add(0x160000000, 0x167ffffff, 'System RAM (kmem)'));
    r.merge(between);
    expect(lines(r).slice(-4)).toEqual([
      '140000000-33fffffff : virtio0',
      '  140000000-157ffffff : System RAM (virtio_mem)',
      '  158000000-15fffffff : System RAM (virtio_mem)',
      '  160000000-167ffffff : System RAM (kmem)',
    ]);
    const parent = add(0x168000000, 0x16fffffff, 'System RAM (kmem)');
    parent.children.push({
      start: 0x168000000,
      end: 0x168000fff,
      name: 'x',
      busy: true,
      mergeable: false,
      children: [],
    });
    r.merge(parent);
    expect(lines(r)).toContain('  160000000-167ffffff : System RAM (kmem)');
  });

  it('RS5 a release cuts the head, the tail or the middle; children go with their part; what nobody has is not released', () => {
    const r = new Resources([
      {
        start: 0,
        end: 0xffff,
        name: 'System RAM',
        children: [
          { start: 0x1000, end: 0x1fff, name: 'low' },
          { start: 0xe000, end: 0xefff, name: 'high' },
        ],
      },
    ]);
    expect(r.release(0x8000, 0x8fff)).toBe(true);
    expect(lines(r)).toEqual([
      '0-7fff : System RAM',
      '  1000-1fff : low',
      '9000-ffff : System RAM',
      '  e000-efff : high',
    ]);
    expect(r.release(0, 0xfff)).toBe(true);
    expect(r.release(0xf000, 0xffff)).toBe(true);
    expect(lines(r).filter((l) => !l.startsWith(' '))).toEqual(['1000-7fff : System RAM', '9000-efff : System RAM']);
    expect(r.release(0x8000, 0x8fff)).toBe(false);
    expect(r.release(0x7000, 0x9fff)).toBe(false); // over two of them
    expect(r.release(0x1000, 0x7fff)).toBe(true);
    expect(r.release(0x9000, 0xefff)).toBe(true);
    expect(lines(r)).toEqual([]);
  });

  it('RS6 a copy is equal and independent', () => {
    const r = guest();
    const copy = r.copy();
    expect(lines(copy)).toEqual(lines(r));
    const before = lines(r);
    expect(copy.release(0x100000, 0x8fffff)).toBe(true);
    expect(copy.request(0x140000000, 0x147ffffff, 'x').ok).toBe(true);
    expect(lines(r)).toEqual(before);
  });
});
