// Pool plans: the list `pools:` of a machine file, and how a machine gets the pools of it.
//
//   pools:                             readPools ──> PoolPlan[]   what each should be, and where in the file it says so
//     - name: web                      makePools ──> the machine's pools, in the order of the file
//       size: 512M                          1  each pool is made: a parent comes before what is carved from it
//       min: 128M                           2  fallbacks are drawn: they may point at any pool
//       fallback: [{ to: node0, weight: 1 }]
//
// What the file alone can tell is refused on reading, with line and field. What depends on the machine (is there so much
// free memory? is there such a node?) is refused when it is made, with the same line and field, and the engine's errno.
// Which frames a pool gets is not in the file: the engine chooses, the same way each time.
//
// Invariants: names are distinct; min <= size <= max; no pool stands before its parent. After Snook 2007 (spec 9.A).

import { formatSize } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { parseList } from '#kernfs/list-format';
import {
  type Machine,
  PAGE_SIZE,
  PERMS,
  type Perm,
  POOL_CLASSES,
  type PoolSpec,
  pools,
  type Refusal,
  ZONE_NAMES,
  type ZoneName,
} from '#mm/index';
import type { DmaForm } from '#mm/pools/dma-rule';
import { readRule, withRule } from './pool-rule.ts';
import { type Field, type MachineFileProblem, problemAt, readYaml } from './yaml-fields.ts';

/** Where something stands: a line from 1, and "pools[1].min". */
export type Place = { readonly line: number; readonly field: string };

export type PoolPlan = {
  /** As the engine takes it; pages are given. */
  readonly spec: PoolSpec & { readonly pages: number };
  /** Its DMA rule: which frames it may have is told by the machine (pool-rule.ts). */
  readonly rule?: DmaForm;
  readonly fallback: readonly { readonly to: string; readonly weight: number; readonly at: Place }[];
  readonly at: Place;
  /** Where its fields stand, by name. */
  readonly places: ReadonlyMap<string, Place>;
};

/** A problem that the engine found. */
export type PoolPlanProblem = MachineFileProblem & { readonly refusal: Refusal };

/** Fields of a pool, in the order in which `dimmer pool create` writes them. */
export const POOL_FIELDS = [
  'name',
  'size',
  'parent',
  'nodes',
  'zones',
  'cpus',
  'min',
  'low',
  'max',
  'priority',
  'class',
  'rule',
  'owner',
  'perms',
  'fallback',
] as const;
export type PoolField = (typeof POOL_FIELDS)[number];

const EDGE = ['to', 'weight'] as const;
const MAX_NODE = 1023;
const MAX_CPU = 8191;
const MAX_POOLS = 1024;

/** The list as it stands in the file. Refuses through the field: call it inside of readYaml. */
export function readPools(field: Field): PoolPlan[] {
  const out: PoolPlan[] = [];
  const items = field.list();
  if (items.length > MAX_POOLS) field.refuse(`${items.length} pools: ${MAX_POOLS} are the most`);
  for (const [k, item] of items.entries()) {
    const plan = readPool(item);
    const { name, parent } = plan.spec;
    const other = out.find((p) => p.spec.name === name);
    if (other !== undefined) item.refuse(`there is a pool ${name} already, on line ${other.at.line}`);
    const isAbove = out.some((p) => p.spec.name === parent);
    if (parent !== undefined && !isAbove && items.slice(k).some((below) => nameOf(below) === parent))
      item.refuse(`its parent, ${parent}, has to stand above it`);
    out.push(plan);
  }
  return out;
}

/** A text that holds nothing but pools: what a capture keeps of them. */
export function parsePools(text: string): Result<PoolPlan[], MachineFileProblem> {
  return readYaml(text, (root) => {
    const field = root.map(['pools']).get('pools');
    return field === undefined ? [] : readPools(field);
  });
}

const nameOf = (item: Field): string | undefined =>
  item.isMap
    ? item
        .entries()
        .find(([key]) => key === 'name')?.[1]
        .word()
    : undefined;

function readPool(item: Field): PoolPlan {
  const fields = item.map(POOL_FIELDS);
  const nameField = fields.get('name') ?? item.refuse('name is missing');
  const name = nameField.word();
  const pages = fields.get('size')?.pages(1) ?? item.refuse('size is missing');
  const rule = fields.get('rule');
  const min = fields.get('min')?.pages(0);
  const max = fields.get('max')?.pages(1);
  const size = formatSize(pages * PAGE_SIZE);
  const shown = (n: number): string => formatSize(n * PAGE_SIZE);
  if (min !== undefined && min > pages)
    fields.get('min')?.refuse(`${shown(min)} is more than the pool's size, ${size}`);
  if (max !== undefined && max < pages)
    fields.get('max')?.refuse(`${shown(max)} is less than the pool's size, ${size}`);
  const places = new Map([...fields].map(([key, f]) => [key, placeOf(f)]));
  return {
    at: placeOf(item),
    places,
    ...given('rule', rule === undefined ? undefined : readRule(rule)),
    spec: {
      name,
      pages,
      ...given('parent', fields.get('parent')?.word()),
      ...given('nodes', numbers(fields.get('nodes'), MAX_NODE)),
      ...given('zones', zonesOf(fields.get('zones'))),
      ...given('cpus', numbers(fields.get('cpus'), MAX_CPU)),
      ...given('min', min),
      ...given('low', fields.get('low')?.pages(0)),
      ...given('max', max),
      ...given('priority', fields.get('priority')?.count(0, 255)),
      ...given('class', fields.get('class')?.oneOf(POOL_CLASSES)),
      ...given('owner', fields.get('owner')?.word()),
      ...given('perms', permsOf(fields.get('perms'))),
    },
    fallback: (fields.get('fallback')?.list() ?? []).map(readEdge),
  };
}

function readEdge(item: Field, k: number): PoolPlan['fallback'][number] {
  const fields = item.map(EDGE);
  const to = fields.get('to')?.word() ?? item.refuse('to is missing');
  return { to, weight: fields.get('weight')?.count(0, 1_000_000) ?? k, at: placeOf(item) };
}

const placeOf = (f: Field): Place => ({ line: f.line, field: f.path });

const given = <K extends string, V>(key: K, value: V | undefined): { readonly [P in K]?: V } =>
  value === undefined ? {} : ({ [key]: value } as { readonly [P in K]?: V }); // one key, the one asked for

/** [1, 0] in this order, or "0-3,8". */
function numbers(field: Field | undefined, most: number): readonly number[] | undefined {
  if (field === undefined) return undefined;
  let out: number[];
  if (field.isList) out = field.list().map((f) => f.count(0, most));
  else {
    const list = parseList(field.word());
    if (!list.ok) return field.refuse(`${list.error.reason}; write them as 0-3,8`);
    out = list.value;
  }
  if (out.length === 0) field.refuse('at least one is wanted here');
  if (new Set(out).size < out.length) field.refuse('one of them comes twice');
  const over = out.find((n) => n > most);
  return over === undefined ? out : field.refuse(`${over} is too many: ${most} is the last there can be`);
}

function zonesOf(field: Field | undefined): readonly ZoneName[] | undefined {
  if (field === undefined) return undefined;
  const out = field.isList ? field.list().map((f) => f.oneOf(ZONE_NAMES)) : [field.oneOf(ZONE_NAMES)];
  return out.length > 0 ? out : field.refuse('at least one is wanted here');
}

function permsOf(field: Field | undefined): Record<string, Perm[]> | undefined {
  if (field === undefined) return undefined;
  return Object.fromEntries(field.entries().map(([who, what]) => [who, what.list().map((f) => f.oneOf(PERMS))]));
}

/**
 * Makes the pools of a file on a machine, in its order, all as root.
 *
 * @returns how many; or the first that the engine refused, with the place in the file. The pools before it exist then: the
 *   machine is of no use. Cost: that of each create, O(pieces carved + pools)
 */
export function makePools(m: Machine, plans: readonly PoolPlan[]): Result<number, PoolPlanProblem> {
  const verbs = pools(m);
  const problem = (at: Place, refusal: Refusal): Result<never, PoolPlanProblem> =>
    err({ ...problemAt(at, `${refusal.message} (${refusal.errno})`), refusal });
  for (const plan of plans) {
    const spec = specOn(m, plan);
    const made = spec.ok ? verbs.create(spec.value) : spec;
    if (!made.ok) return problem(blamed(m, plan, made.error), made.error);
  }
  for (const plan of plans) {
    for (const { to, weight, at } of plan.fallback) {
      const drawn = verbs.setFallback(plan.spec.name, to, weight);
      if (!drawn.ok) return problem(at, drawn.error);
    }
  }
  return ok(plans.length);
}

/** What the engine is asked for: with a rule, the frames of this machine that satisfy it. */
export const specOn = (m: Machine, { spec, rule }: PoolPlan): Result<PoolPlan['spec'], Refusal> =>
  rule === undefined ? ok(spec) : withRule(m, spec, rule);

/** The field that a refused pool stumbled over. */
function blamed(m: Machine, { spec, at, places }: PoolPlan, refusal: Refusal): Place {
  const { nodes = [], cpus = [] } = spec;
  const argument = (): PoolField =>
    nodes.some((n) => !m.nodes.some((x) => x === n))
      ? 'nodes'
      : cpus.some((c) => c >= (m.spec.cpus ?? 1))
        ? 'cpus'
        : 'name';
  const field: PoolField | undefined =
    refusal.reason === 'no-window'
      ? 'rule'
      : refusal.reason === 'no-such-pool'
        ? 'parent'
        : refusal.reason === 'bad-argument'
          ? argument()
          : refusal.reason === 'no-memory'
            ? 'size'
            : refusal.reason === 'guarantee'
              ? 'min'
              : undefined;
  return (field && places.get(field)) ?? at;
}
