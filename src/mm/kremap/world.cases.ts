// Remapping's test world: a machine, a DIMM that comes and goes, and kernel pages at chosen frames.

import { expect } from 'vitest';
import { type HolderId, type Pfn, toBlockId, toNodeId, toPfn } from '#base/units';
import type { Evictor } from '../evictor.ts';
import { takeFreeFrames } from '../free-frames.ts';
import { PAGES_PER_SECTION } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import type { KernelClass } from '../kernel-class.ts';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import { CLASS_TRAITS, type PageClass } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { remapEvictor } from './evictor.ts';

export const S = PAGES_PER_SECTION;
const node0 = toNodeId(0);
export const remap: { readonly evictors: readonly Evictor[] } = { evictors: [remapEvictor()] };

/** Sections 0 to 7 from boot, and a DIMM of sections 32 to 39, online in Normal; its struct pages and tables in itself. */
export function world(spec: Partial<MachineSpec> = {}): Machine {
  const m = Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(8 * S), node: node0 }],
    blockSize: 2 ** 27,
    code: 'shared',
    hotplug: { autoOnline: 'offline', memmapOnMemory: 'Y' },
    ...spec,
  });
  plug(m, 'kernel');
  return m;
}

export function plug(m: Machine, zone: 'kernel' | 'movable'): void {
  const added = m.addMemory({ start: toPfn(32 * S), end: toPfn(40 * S) }, node0, {
    memmap: 'self-block',
    pageTables: 'self',
  });
  if (!added.ok) throw new Error(added.error.message);
  for (let b = 32; b < 40; b++) expect(m.online(toBlockId(b), zone).ok).toBe(true);
}

export function unplug(m: Machine, options = remap): void {
  for (let b = 39; b >= 32; b--) expect(m.offline(toBlockId(b), options)).toMatchObject({ ok: true });
  expect(m.removeMemory({ start: toPfn(32 * S), end: toPfn(40 * S) }).ok).toBe(true);
}

/** An allocation of these very frames. */
export function allocAt(m: Machine, holder: HolderId, pfn: number, order = 0): Pfn {
  const index = m.sections.indexOf(toPfn(pfn));
  const pool = m.poolAt(index) as Pool;
  pool.alloc.drain();
  takeFreeFrames(pool, index, index + 2 ** order);
  m.occupy(holder, index, order);
  const { managed } = CLASS_TRAITS[(m.holders.specs[holder] as HolderSpec).class];
  if (!managed) pool.managed -= 2 ** order;
  return toPfn(pfn);
}

export const holder = (m: Machine, cls: PageClass, kernel?: KernelClass): HolderId => {
  const spec: Omit<HolderSpec, 'node'> = { class: cls, name: `a ${cls}`, ...(kernel === undefined ? {} : { kernel }) };
  return m.addHolder(spec);
};

/** Where the holder finds its page. */
export const frameOf = (m: Machine, h: HolderId, index = 0): number => {
  let found = -1;
  m.forEachFrameOf(h, (head, _order, i) => {
    if (i === index) found = head;
  });
  return found;
};
