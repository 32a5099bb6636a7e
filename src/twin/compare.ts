// compareWithFiles: every counter of the twin beside the file it should equal. Differences are listed, never hidden.
//
// A live machine changes while its files are read, so that a few free pages may differ between buddyinfo and
// kpageflags; layout counters (present, spanned, states) cannot, and must be equal.

import { type BuddyinfoZone, parseBuddyinfo } from '#kernfs/buddyinfo';
import type { Pagetypeinfo } from '#kernfs/pagetypeinfo';
import { type Machine, MIGRATE_NAMES, NR_ORDERS, type Pool, toBlockId } from '#mm/index';
import { zoneIndexOf } from './layout.ts';
import type { Comparison } from './provenance.ts';
import type { TwinBase } from './twin.ts';

export function compareWithFiles(m: Machine, base: TwinBase): Comparison[] {
  const out: Comparison[] = [];
  const add = (name: string, file: string, captured: number, twin: number): void => {
    out.push({ name, file, captured, twin, equal: captured === twin });
  };
  for (const z of base.zones) {
    const pool = poolOf(m, z);
    if (pool === undefined) {
      if (z.present > 0 && zoneIndexOf(z.zone) !== undefined)
        add(`${title(z)}: present pages`, '/proc/zoneinfo', z.present, 0);
      continue;
    }
    add(`${title(z)}: spanned pages`, '/proc/zoneinfo', z.spanned, pool.spanned);
    add(`${title(z)}: present pages`, '/proc/zoneinfo', z.present, pool.present);
    add(`${title(z)}: managed pages`, '/proc/zoneinfo', z.managed, pool.managed);
    add(`${title(z)}: free pages`, '/proc/zoneinfo', z.free, pool.alloc.nrFree());
  }
  const buddyText = base.capture.tree.readText('/proc/buddyinfo');
  const buddy = buddyText === undefined ? undefined : parseBuddyinfo(buddyText);
  if (buddy?.ok === true) compareBuddyinfo(m, buddy.value, add);
  if (base.pagetypes !== undefined) comparePagetypes(m, base.pagetypes, add);
  for (const b of base.blocks) {
    const mine = m.block(toBlockId(b.id));
    const same = mine !== undefined && (mine.state === 'offline') === (b.state === 'offline');
    add(`memory${b.id}: state ${b.state}`, `/sys/devices/system/memory/memory${b.id}/state`, 1, same ? 1 : 0);
  }
  return out;
}

type Add = (name: string, file: string, captured: number, twin: number) => void;

const title = (z: { node: number; zone: string }): string => `Node ${z.node}, zone ${z.zone}`;

function poolOf(m: Machine, z: { node: number; zone: string }): Pool | undefined {
  const k = zoneIndexOf(z.zone);
  return k === undefined ? undefined : m.zones.find((p) => p.node === z.node && p.zone === k);
}

function compareBuddyinfo(m: Machine, rows: readonly BuddyinfoZone[], add: Add): void {
  for (const row of rows) {
    const pool = poolOf(m, row);
    if (pool === undefined) continue;
    const counts = new Float64Array(8 * NR_ORDERS);
    pool.alloc.area.count(counts);
    row.nrFree.forEach((captured, order) => {
      let twin = 0;
      for (let t = 0; t < 8; t++) twin += counts[t * NR_ORDERS + order] as number;
      add(`${title(row)}: free chunks of order ${order}`, '/proc/buddyinfo', captured, twin);
    });
  }
}

function comparePagetypes(m: Machine, x: Pagetypeinfo, add: Add): void {
  for (const row of x.free) {
    const pool = poolOf(m, row);
    const t = (MIGRATE_NAMES as readonly string[]).indexOf(row.type);
    if (pool === undefined || t < 0) continue;
    const counts = new Float64Array(8 * NR_ORDERS);
    pool.alloc.area.count(counts);
    row.nrFree.forEach((captured, order) => {
      const twin = counts[t * NR_ORDERS + order] as number;
      const name = `${title(row)}, type ${row.type}: free chunks of order ${order}`;
      // ">100000" is a lower bound: equal as long as the twin has at least that many.
      add(name, '/proc/pagetypeinfo', row.capped[order] === true && twin > captured ? twin : captured, twin);
    });
  }
  for (const row of x.blocks) {
    const pool = poolOf(m, row);
    if (pool === undefined) continue;
    const mine = new Float64Array(8);
    countOwnTypes(m, pool, mine);
    x.types.forEach((name, column) => {
      const t = (MIGRATE_NAMES as readonly string[]).indexOf(name);
      if (t >= 0)
        add(
          `${title(row)}: pageblocks of type ${name}`,
          '/proc/pagetypeinfo',
          row.counts[column] ?? 0,
          mine[t] as number,
        );
    });
  }
}

/** The kernel counts a pageblock where its first page is online and in the zone. */
function countOwnTypes(m: Machine, pool: Pool, out: Float64Array): void {
  for (let i = 0; i < pool.pages; i += 512) {
    if (m.poolAt(pool.base + i) !== pool) continue;
    const t = pool.alloc.area.typeOf(i);
    out[t] = (out[t] as number) + 1;
  }
}
