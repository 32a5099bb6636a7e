// Zone view: a zone as /proc shows it, whoever owns its frames.
//
//   zone Normal of node 0     what is left of the zone  +  pool web's frames that bear its label  +  pool db's ...
//
//   present managed nrFree lists pcp    sums over the pools that have frames of the zone
//   min low high promo                  of the whole zone: carving does not move them (pool-watermarks.ts)
//   spanned startPfn boost numa         the zone's own
//
// A pool whose frames all bear one label adds its counters as they are; one with several is counted chunk by chunk where the
// label says so. Without user pools every figure is the zone's own, at no cost beyond a comparison (I7).
// Spec 9.A, semantics 1: "zone counters = sum over pools with that label".

import type { NodeId } from '#base/units';
import { MIGRATE_ISOLATE, NR_MIGRATE_TYPES, NR_ORDERS, PAGEBLOCK_ORDER } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { NumaCounts, Pool } from '../pool.ts';
import type { Watermarks } from '../watermark.ts';

export class ZoneView {
  readonly zone: Pool;
  readonly #m: Machine;
  /** User pools with frames of the zone. */
  readonly #users: readonly Pool[];

  constructor(m: Machine, zone: Pool) {
    this.#m = m;
    this.zone = zone;
    const none = m.pools.length === m.zones.length;
    this.#users = none ? [] : m.pools.filter((p) => p.kind === 'user' && p.labels.has(zone.id));
  }

  get id(): number {
    return this.zone.id;
  }
  get node(): NodeId {
    return this.zone.node;
  }
  get name(): string {
    return this.zone.name;
  }
  get startPfn(): number {
    return this.zone.startPfn;
  }
  get spanned(): number {
    return this.zone.spanned;
  }
  get boost(): number {
    return this.zone.boost;
  }
  get numa(): NumaCounts {
    return this.zone.numa;
  }

  get present(): number {
    return this.#plus(this.zone.present);
  }

  get managed(): number {
    return this.#plus(this.zone.managed);
  }

  #plus(own: number): number {
    let n = own;
    for (const p of this.#users) n += p.labels.get(this.zone.id) ?? 0;
    return n;
  }

  get watermarks(): Watermarks {
    return this.#users.length === 0 ? this.zone.watermarks : this.zone.zoneMarks;
  }

  /** NR_FREE_PAGES: on the free lists, isolated ones not counted. */
  nrFree(): number {
    return this.#sum(
      (p) => p.alloc.nrFree(),
      (mt) => mt !== MIGRATE_ISOLATE,
    );
  }

  nrFreeCma(): number {
    return this.zone.alloc.nrFreeCma(); // a pool has no CMA pageblocks
  }

  /** Free chunks: [type * 11 + order]. */
  counts(): Float64Array {
    const out = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
    this.zone.alloc.area.count(out);
    for (const p of this.#users) {
      if (p.labels.size === 1) p.alloc.area.count(out);
      else
        this.#eachFree(
          p,
          (order, mt) => void (out[mt * NR_ORDERS + order] = (out[mt * NR_ORDERS + order] as number) + 1),
        );
    }
    return out;
  }

  /** Pageblocks by type: of one that pools share, the type that the first frame's pool has. */
  pageblocks(): Float64Array {
    const out = new Float64Array(NR_MIGRATE_TYPES);
    const { owners, pools } = this.#m;
    for (const p of [this.zone, ...this.#users]) {
      const first = p.base >>> PAGEBLOCK_ORDER;
      for (let k = 0; k < p.pages >>> PAGEBLOCK_ORDER; k++) {
        if (owners.zone[first + k] !== this.zone.id) continue;
        if (pools[owners.at((first + k) << PAGEBLOCK_ORDER)] !== p) continue;
        const mt = p.alloc.area.typeOf(k << PAGEBLOCK_ORDER);
        out[mt] = (out[mt] as number) + 1;
      }
    }
    return out;
  }

  /** Pages on per-CPU lists, by CPU. */
  pcp(): Map<number, number> {
    const out = new Map<number, number>();
    for (const p of [this.zone, ...this.#users]) {
      p.alloc.forEachPcp((cpu, _mt, i, order) => {
        if (p.labels.size > 1 && this.#m.owners.zoneAt(p.base + i) !== this.zone.id) return;
        out.set(cpu, (out.get(cpu) ?? 0) + (1 << order));
      });
    }
    return out;
  }

  /** Are the zone's per-CPU lists off, while a block of it goes offline? */
  get pcpOff(): boolean {
    return this.zone.alloc.front.settings().disabled > 0;
  }

  #sum(of: (p: Pool) => number, counts: (mt: number) => boolean): number {
    let n = of(this.zone);
    for (const p of this.#users) {
      if (p.labels.size === 1) n += of(p);
      else this.#eachFree(p, (order, mt) => void (n += counts(mt) ? 2 ** order : 0));
    }
    return n;
  }

  #eachFree(p: Pool, each: (order: number, mt: number) => void): void {
    const { owners } = this.#m;
    p.alloc.area.forEachFree(0, p.pages, (i, order, mt) => {
      if (owners.zoneAt(p.base + i) === this.zone.id) each(order, mt);
    });
  }
}

/** All zones, in the order of Machine.zones. */
export const zoneViews = (m: Machine): ZoneView[] => m.zones.map((zone) => new ZoneView(m, zone));
