// /sys/kernel/mm/pools: pools of frames, read, changed, made and ended with echo and cat. No Linux has this directory.
//
//   create   0200   "web pages=10000 min=500 nodes=0"      a pool (words below); destroy   0200   "web", "web drain"
//   NAME/    one directory for each zone (node0-Normal) and each user pool
//
//   file              mode   what it says                                      a write
//   managed           0644   pages                                             resize: "20000" or "80M"
//   free borrowed_in borrowed_out    0444   pages
//   min low max       0644   pages; max of a pool without one: "max"           setattr
//   priority          0644   0..255                                            setattr
//   owner             0644   a principal                                       setattr
//   perms             0644   "alice:alloc,free bob:alloc"; empty: nobody       setattr: the whole list anew
//   node_mask cpu_mask 0644  "0-1"; cpu_mask of a pool for all CPUs: all       setattr
//   class             0644   normal realtime guaranteed opportunistic dma replica
//   fallback          0644   "db:0 node1-Normal:1"                             "db 5" draws an edge, "db off" removes it
//   parent rule       0444   where it was carved from; its DMA rule, if any
//   buddyinfo         0444   free chunks by order 0 to 10
//   chunk_histogram   0444   chunks of 4 MiB by what it costs to empty them (mm/pools/chunk-cost.ts)
//
// Words of create: pages= min= low= max= (pages, or sizes with K M G), nodes= cpus= (lists), zones=Normal,DMA32 priority=
// class= owner= perms=alice:alloc,free;bob:alloc parent=. A refusal is its errno. Whoever writes is root. The files of a
// zone are there to be read; a write that its verb refuses is refused. Zones have no files to be resized: 0444.
//
// The tree of a twin lists the directory once it has a user pool: before, what is listed, exported and compared is the
// recorded machine's. It can be entered all the same, so that the first pool of a twin is made as on any machine.
// Spec 9.A, verbs. Snook 2007: "if we put memory pool management in the kernel with some userspace hooks".

import type { ErrnoName } from '#base/errno';
import type { Result } from '#base/result';
import { parseList, printList } from '#kernfs/list-format';
import { NR_MIGRATE_TYPES, NR_ORDERS, PAGE_SIZE } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import { memparse } from '#mm/memparse';
import { ZONE_NAMES, type ZoneName } from '#mm/page-class';
import type { Pool } from '#mm/pool';
import { chunkCosts, HISTOGRAM_LABELS } from '#mm/pools/chunk-cost';
import { attrsOf, livePools, type Perm, type PoolAttrs, type PoolClass, poolNamed } from '#mm/pools/pool-table';
import { type AttrChange, type PoolSpec, type PoolStat, pools } from '#mm/pools/pools';
import type { Refusal } from '#mm/refusal';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, type FileNode, fixedDir, growingDir, trigger, word } from './tree-node.ts';

type Outcome = Result<unknown, Refusal> | 'EINVAL';

const answer = (r: Outcome): 'ok' | ErrnoName => (r === 'EINVAL' ? r : r.ok ? 'ok' : r.error.errno);

/** Is the directory listed? */
export const listsPools = ({ machine: m, base }: TreeContext): boolean =>
  base === undefined || (m.pools.length > m.zones.length && livePools(m).some((a) => a.kind === 'user'));

export function poolsDir({ machine: m }: TreeContext): DirNode {
  return growingDir(
    {
      create: trigger((text) => answer(createFrom(m, word(text)))),
      destroy: trigger((text) => answer(destroyFrom(m, word(text)))),
    },
    {
      names: () => livePools(m).map((a) => a.name),
      at: (name) => {
        const attrs = poolNamed(m, name);
        return attrs === undefined ? undefined : poolDir(m, name, attrs.kind);
      },
    },
  );
}

function poolDir(m: Machine, name: string, kind: 'zone' | 'user'): DirNode {
  // Read anew each time: a node of the tree outlives nothing.
  const attrs = (): PoolAttrs => poolNamed(m, name) as PoolAttrs; // the directory was found by its name
  const stat = (of: (s: PoolStat) => number): FileNode =>
    attribute(() => {
      const s = pools(m).stat(name);
      return `${s.ok ? of(s.value) : 0}\n`;
    });
  const set = (read: (a: PoolAttrs) => string, change: (text: string) => AttrChange | undefined): FileNode =>
    attribute(
      () => `${read(attrs())}\n`,
      (text) => {
        const wanted = change(word(text).trim());
        return answer(wanted === undefined ? 'EINVAL' : pools(m).setattr(name, wanted));
      },
    );
  const pages = (key: 'min' | 'low'): FileNode =>
    set(
      (a) => String(a[key]),
      (text) => {
        const n = pagesOf(text);
        return n === undefined ? undefined : { [key]: n };
      },
    );
  const pool = (): Pool => m.pools[attrs().id] as Pool;
  const managed = attribute(
    () => `${pool().managed}\n`,
    (text) => {
      const n = pagesOf(word(text).trim());
      return answer(n === undefined ? 'EINVAL' : pools(m).resize(name, n));
    },
  );
  return fixedDir({
    borrowed_in: stat((s) => s.borrowedIn),
    borrowed_out: stat((s) => s.borrowedOut),
    buddyinfo: attribute(() => buddyinfoOf(pool())),
    chunk_histogram: attribute(() => histogramOf(m, pool())),
    class: set(
      (a) => a.class,
      (text) => ({ class: text as PoolClass }), // setattr refuses words that are none
    ),
    cpu_mask: set(
      (a) => printList(a.cpus ?? Array.from({ length: m.spec.cpus ?? 1 }, (_, cpu) => cpu)),
      (text) => listOf('cpus', text),
    ),
    fallback: attribute(
      () =>
        `${attrs()
          .fallbacks.map((e) => `${attrsOf(m, e.to).name}:${e.weight}`)
          .join(' ')}\n`,
      (text) => answer(fallbackFrom(m, name, word(text))),
    ),
    free: stat((s) => s.free),
    low: pages('low'),
    managed: kind === 'zone' ? attribute(() => `${pool().managed}\n`) : managed,
    max: set(
      (a) => (Number.isFinite(a.max) ? String(a.max) : 'max'),
      (text) => {
        const n = text === 'max' ? Number.POSITIVE_INFINITY : pagesOf(text);
        return n === undefined ? undefined : { max: n };
      },
    ),
    min: pages('min'),
    node_mask: set(
      (a) => printList([...a.nodes].sort((x, y) => x - y)),
      (text) => listOf('nodes', text),
    ),
    owner: set(
      (a) => a.owner,
      (text) => ({ owner: text }),
    ),
    parent: attribute(() => `${attrs().parent}\n`),
    perms: set(
      (a) => [...a.perms].map(([who, what]) => `${who}:${[...what].join(',')}`).join(' '),
      (text) => grantsOf(text.split(/\s+/)),
    ),
    priority: set(
      (a) => String(a.priority),
      (text) => (/^\d+$/.test(text) ? { priority: Number(text) } : undefined),
    ),
    rule: attribute(() => `${attrs().rule}\n`),
  });
}

/** "20000" are pages, "80M" is a size in bytes, whole pages. */
function pagesOf(text: string): number | undefined {
  if (/^\d+$/.test(text)) return Number(text);
  if (!/^\d+[KMGTkmgt]$/.test(text)) return undefined;
  const bytes = Number(memparse(text));
  return bytes % PAGE_SIZE === 0 ? bytes / PAGE_SIZE : undefined;
}

function listOf(key: 'nodes' | 'cpus', text: string): AttrChange | undefined {
  const list = parseList(text);
  return list.ok ? { [key]: list.value } : undefined;
}

/** Words "alice:alloc,free"; setattr refuses permissions that are none. */
function grantsOf(words: readonly string[]): AttrChange | undefined {
  const perms: Record<string, Perm[]> = {};
  for (const w of words) {
    if (w === '') continue;
    const found = /^([^:]+):(.+)$/.exec(w);
    if (found === null) return undefined;
    perms[found[1] as string] = (found[2] as string).split(',') as Perm[];
  }
  return { perms };
}

function createFrom(m: Machine, text: string): Outcome {
  const [name, ...words] = text.trim().split(/\s+/);
  const spec: { -readonly [K in keyof PoolSpec]?: PoolSpec[K] } & { name: string } = { name: name ?? '' };
  for (const w of words) {
    const at = w.indexOf('=');
    const key = w.slice(0, at);
    const value = w.slice(at + 1);
    if (at <= 0 || value === '') return 'EINVAL';
    if (key === 'pages' || key === 'min' || key === 'low' || key === 'max') {
      const n = pagesOf(value);
      if (n === undefined) return 'EINVAL';
      spec[key] = n;
    } else if (key === 'nodes' || key === 'cpus') {
      const list = parseList(value);
      if (!list.ok) return 'EINVAL';
      spec[key] = list.value;
    } else if (key === 'zones') {
      const zones = value.split(',') as ZoneName[];
      if (zones.some((z) => !ZONE_NAMES.includes(z))) return 'EINVAL';
      spec.zones = zones;
    } else if (key === 'priority' && /^\d+$/.test(value)) spec.priority = Number(value);
    else if (key === 'class')
      spec.class = value as PoolClass; // create refuses words that are none
    else if (key === 'owner' || key === 'parent') spec[key] = value;
    else if (key === 'perms') {
      const change = grantsOf(value.split(';'));
      if (change?.perms === undefined) return 'EINVAL';
      spec.perms = change.perms;
    } else return 'EINVAL';
  }
  return pools(m).create(spec);
}

function destroyFrom(m: Machine, text: string): Outcome {
  const [name, how, ...rest] = text.trim().split(/\s+/);
  if (rest.length > 0 || (how !== undefined && how !== 'drain')) return 'EINVAL';
  return pools(m).destroy(name ?? '', { drain: how === 'drain' });
}

function fallbackFrom(m: Machine, name: string, text: string): Outcome {
  const [to, weight, ...rest] = text.trim().split(/\s+/);
  if (to === undefined || weight === undefined || rest.length > 0) return 'EINVAL';
  if (weight !== 'off' && !/^\d+$/.test(weight)) return 'EINVAL';
  return pools(m).setFallback(name, to, weight === 'off' ? undefined : Number(weight));
}

function buddyinfoOf(pool: Pool): string {
  const counts = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  pool.alloc.area.count(counts);
  const byOrder = Array.from({ length: NR_ORDERS }, (_, order) => {
    let n = 0;
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) n += counts[mt * NR_ORDERS + order] as number;
    return n;
  });
  return `${byOrder.join(' ')}\n`;
}

/** "free:12 <=64:3 ... unreclaimable:1". The first one to ask pays for a count of all frames in use. */
function histogramOf(m: Machine, pool: Pool): string {
  const counts = chunkCosts(m).histogram(pool);
  return `${HISTOGRAM_LABELS.map((label, k) => `${label}:${counts[k]}`).join(' ')}\n`;
}
