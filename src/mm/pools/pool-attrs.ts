// Attributes of pools: what may be asked for, and what contradicts itself. Nothing here changes a machine.
//
//   create   PoolSpec ──newAttrs──> PoolAttrs of a pool that is not there yet
//   setattr  PoolAttrs + AttrChange ──changedAttrs──> PoolAttrs, or why not
//
//   errno    EINVAL  an empty or unknown mask, a range that is none, a number that is none, min above max
//            EEXIST  the name is taken        ENOENT  the parent is not there        EPERM  who asks may not carve there
//
// A zone's frames, and so its size, nodes and class, are memory hotplug's business: of a zone only the owner, the
// permissions and the priority can be changed. An attribute that does not change is not looked at again: a pool may name a
// node that is gone, and have its frames back when the node returns. Rows: pool-table.ts. Spec 9.A, object and errno.

import { err, ok, type Result } from '#base/result';
import { type NodeId, type Pfn, toNodeId } from '#base/units';
import type { Machine } from '../machine.ts';
import { ZONE_NAMES, type ZoneIndex, type ZoneName } from '../page-class.ts';
import { type Refusal, type RefusalReason, refusal } from '../refusal.ts';
import {
  may,
  PERMS,
  type Perm,
  POOL_CLASSES,
  type PoolAttrs,
  type PoolClass,
  type Principal,
  poolNamed,
  ROOT,
} from './pool-table.ts';

/** Who asks. Default: root. */
export type As = { readonly as?: Principal };

export type Grants = Readonly<Record<Principal, readonly Perm[]>>;

export type PoolSpec = {
  readonly name: string;
  /** Frames to carve. Default: min. */
  readonly pages?: number;
  /** Nodes whose frames it may have, home first. Default: the parent's, else the first node. */
  readonly nodes?: readonly number[];
  /** Zones whose frames it may have. Default: all but Movable; with ranges: all. */
  readonly zones?: readonly ZoneName[];
  /** Frame numbers that it may have, [start, end), ascending, none twice. Default: any. */
  readonly ranges?: readonly { readonly start: Pfn; readonly end: Pfn }[];
  /** The pool to carve from. Default: the zones of its nodes. */
  readonly parent?: string;
  readonly cpus?: readonly number[];
  readonly rule?: string;
  readonly owner?: Principal;
  readonly perms?: Grants;
  readonly priority?: number;
  readonly min?: number;
  readonly low?: number;
  readonly max?: number;
  readonly class?: PoolClass;
  /**
   * Its allocator's machine code. 'own' is compiled for it (milliseconds): for the one pool that a program lives in. 'shared'
   * is one for all, faster where requests go to many pools in turn (bench/README.md). Default 'shared'.
   */
  readonly code?: 'own' | 'shared';
};

export type AttrChange = Partial<
  Pick<PoolSpec, 'nodes' | 'cpus' | 'owner' | 'perms' | 'priority' | 'min' | 'low' | 'max' | 'class'>
>;

const NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/;
/** Names that the tree needs for itself, and those of nodes and zones. */
const RESERVED_NAME = /^(create|destroy|root|node\d+(-(DMA|DMA32|Normal|Movable))?)$/;
const OF_A_ZONE: ReadonlySet<string> = new Set(['owner', 'perms', 'priority']);

export const no = (reason: RefusalReason, message: string): { ok: false; error: Refusal } =>
  err(refusal(reason, message));

/** Is it a number of pages: a whole one, 0 or more? */
export const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;

/** Is it a range of frame numbers, [start, end), of one frame at least? */
export const isRange = (r: { readonly start: number; readonly end: number }): boolean =>
  isCount(r.start) && isCount(r.end) && r.start < r.end;

/** The row of a pool that is to be, with the id that the caller has for it. Refusals: the top. Cost O(pools). */
export function newAttrs(m: Machine, spec: PoolSpec, id: number, as: Principal): Result<PoolAttrs, Refusal> {
  const { name } = spec;
  if (!NAME.test(name) || RESERVED_NAME.test(name)) {
    return no(
      'bad-argument',
      `"${name}" is no name for a pool: a letter, then up to 63 letters, digits and _ . -; node0 and the like are taken`,
    );
  }
  if (poolNamed(m, name) !== undefined) return no('pool-exists', `pool ${name} exists already`);
  const parent = spec.parent === undefined ? undefined : poolNamed(m, spec.parent);
  if (spec.parent !== undefined && parent === undefined) return no('no-such-pool', `there is no pool ${spec.parent}`);
  const source = parent?.kind === 'user' ? parent : undefined;
  if (source === undefined ? as !== ROOT : !may(source, as, 'donate')) {
    return no('permission', `${as} may not carve pools out of ${parent?.name ?? 'zones'}`);
  }
  const nodes = spec.nodes?.map((n) => toNodeId(n)) ?? parent?.nodes ?? m.nodes.slice(0, 1);
  const usual: readonly ZoneIndex[] = spec.ranges === undefined ? [0, 1, 2] : [0, 1, 2, 3];
  const zones = spec.zones?.map((z) => ZONE_NAMES.indexOf(z) as ZoneIndex) ?? parent?.zones ?? usual; // names of the type
  if (zones.length === 0 || zones.some((z) => z < 0)) return no('bad-argument', `pool ${name}: its zones name none`);
  if (!areRanges(spec.ranges)) return no('bad-argument', `pool ${name}: its ranges are none, or not in order`);
  if (spec.pages !== undefined && !isCount(spec.pages)) {
    return no('bad-argument', `pool ${name}: ${spec.pages} is no number of pages`);
  }
  const blank: PoolAttrs = {
    id,
    name,
    kind: 'user',
    parent: parent?.name ?? `node${nodes[0]}`,
    nodes,
    zones,
    ranges: spec.ranges,
    cpus: undefined,
    rule: spec.rule ?? '',
    owner: as,
    perms: new Map(),
    priority: 0,
    min: 0,
    low: 0,
    max: Number.POSITIVE_INFINITY,
    class: 'normal',
    state: 'active',
    fallbacks: [],
  };
  return changedAttrs(m, blank, spec);
}

const areRanges = (ranges: PoolSpec['ranges']): boolean =>
  ranges === undefined ||
  (ranges.length > 0 &&
    ranges.every((r, k) => isRange(r) && (k === 0 || (ranges[k - 1] as { end: number }).end <= r.start)));

/** Attributes with a change applied. Refusal: bad-argument (EINVAL). */
export function changedAttrs(m: Machine, a: PoolAttrs, change: AttrChange): Result<PoolAttrs, Refusal> {
  const bad = (why: string): { ok: false; error: Refusal } => no('bad-argument', `pool ${a.name}: ${why}`);
  if (a.kind === 'zone') {
    const other = Object.keys(change).find((key) => !OF_A_ZONE.has(key));
    if (other !== undefined) return bad(`it is a zone, its ${other} cannot be changed`);
  }
  const masks = changedMasks(m, a, change);
  if (typeof masks === 'string') return bad(masks);
  const numbers = changedNumbers(a, change);
  if (typeof numbers === 'string') return bad(numbers);
  const cls = change.class ?? a.class;
  if (!POOL_CLASSES.includes(cls)) return bad(`its class is one of ${POOL_CLASSES.join(', ')}`);
  const perms = change.perms === undefined ? a.perms : grantsOf(change.perms);
  if (typeof perms === 'string') return bad(perms);
  const owner = change.owner ?? a.owner;
  if (owner === '') return bad('its owner is nobody');
  return ok({ ...a, ...masks, ...numbers, class: cls, perms, owner });
}

type Masks = Pick<PoolAttrs, 'nodes' | 'cpus'>;

/** @returns a sentence when it cannot be */
function changedMasks(m: Machine, a: PoolAttrs, change: AttrChange): Masks | string {
  let { nodes, cpus } = a;
  if (change.nodes !== undefined) {
    nodes = [...new Set(change.nodes)].map((n) => toNodeId(n));
    const stranger = nodes.find((n: NodeId) => !m.nodes.includes(n));
    if (stranger !== undefined) return `there is no node ${stranger}`;
  }
  if (nodes.length === 0) return 'its node mask is empty';
  if (change.cpus !== undefined) {
    cpus = [...new Set(change.cpus)].sort((x, y) => x - y);
    const all = m.spec.cpus ?? 1;
    const missing = cpus.find((c) => !isCount(c) || c >= all);
    if (missing !== undefined) return `there is no CPU ${missing}: the machine has ${all}`;
    if (cpus.length === 0) return 'its CPU mask is empty';
  }
  return { nodes, cpus };
}

type Numbers = Pick<PoolAttrs, 'priority' | 'min' | 'low' | 'max'>;

/** @returns a sentence when it cannot be */
function changedNumbers(a: PoolAttrs, change: AttrChange): Numbers | string {
  const { priority = a.priority, min = a.min, low = a.low, max = a.max } = change;
  if (!isCount(priority) || priority > 255) return `its priority is 0 to 255, not ${priority}`;
  if (!isCount(min) || !isCount(low)) return `min and low are numbers of pages, not ${min} and ${low}`;
  if (max !== Number.POSITIVE_INFINITY && !isCount(max)) return `max is a number of pages, not ${max}`;
  if (max < min) return `its max, ${max}, is below its min, ${min}`;
  return { priority, min, low, max };
}

/** @returns a sentence when they are none */
function grantsOf(grants: Grants): PoolAttrs['perms'] | string {
  const out = new Map<Principal, ReadonlySet<Perm>>();
  for (const [who, what] of Object.entries(grants)) {
    if (!Array.isArray(what)) return `the permissions of ${who} are a list`;
    const wrong = (what as readonly Perm[]).find((perm) => !PERMS.includes(perm));
    if (wrong !== undefined) return `"${wrong}" is no permission: ${PERMS.join(', ')}`;
    out.set(who, new Set(what as readonly Perm[]));
  }
  return out;
}
