// dimmer pool: makes, changes and ends pools in a machine file, or in a copy of a capture.
//
//   source ──openPoolStore──> text, and a machine without pools
//     │ 1  the pools of the text are made on a fork                        a refusal: the file is no machine, exit 2
//     │ 2  the verb is done on that machine                                a refusal: exit 1, with its errno
//     │ 3  the text is edited: what is not changed stays, comments too
//     │ 4  the pools of the new text are made on another fork: it has to be what 2 left behind
//     └ 5  ═ written ═ whole or not at all, then the figures that changed are printed
//
// Nothing is written before 5. Which frames a pool has is no part of a text, only how many: a machine made anew chooses them.

import { type Command, Option } from 'commander';
import { err, ok, type Result } from '#base/result';
import {
  edgeEdit,
  editPools,
  type MachineFileProblem,
  type Plain,
  type PoolEdit,
  type PoolField,
  type PoolPlan,
  pagesOfWord,
  plainOf,
  removal,
  sizeEdits,
  sizeWord,
  specOn,
} from '#machine-file/index';
import { type AttrChange, type Machine, PAGE_SIZE, POOL_CLASSES, type PoolStat, pools, type Refusal } from '#mm/index';
import { listPools, type PoolEntry } from '#query/index';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { complain } from './options.ts';
import { poolColumns } from './pool-columns.ts';
import { machineWith, openPoolStore, type PoolStore } from './pool-store.ts';
import { type Column, formatTable } from './table.ts';

export const POOL_VERBS = ['create', 'resize', 'move', 'destroy', 'setattr', 'fallback'] as const;
type Verb = (typeof POOL_VERBS)[number];

type Options = {
  readonly dryRun?: boolean;
  readonly json?: boolean;
  readonly bytes?: boolean;
  readonly quiet?: boolean;
  readonly output?: string;
  readonly as?: string;
};

/** Attributes as words of the command line. */
type AttrOptions = {
  readonly node?: string;
  readonly cpus?: string;
  readonly min?: string;
  readonly low?: string;
  readonly max?: string;
  readonly priority?: string;
  readonly class?: string;
  readonly owner?: string;
  readonly perm?: readonly string[];
};
type CreateOptions = AttrOptions & {
  readonly name: string;
  readonly size: string;
  readonly zone?: string;
  readonly parent?: string;
  readonly rule?: string;
  readonly fallback?: readonly string[];
};

/** What a verb did to the machine, and what the text has to say of it. */
type Change = Result<readonly PoolEdit[], Complaint>;
type Work = {
  readonly store: PoolStore;
  readonly machine: Machine;
  readonly plans: readonly PoolPlan[];
  readonly as: { readonly as: string };
};

export function addPool(program: Command, io: Io, exit: (code: number) => void): void {
  const pool = program
    .command('pool')
    .description('Makes, changes and ends pools in a machine file, or in a copy of a capture.')
    .addHelpText(
      'after',
      `
The machine is booted with the pools of the file, the verb is done on it, and the file is rewritten, comments and order
included; a refusal leaves it as it was. A capture is never changed: -o names the copy that gets the pools.
Exit code: 0 done; 1 the machine refused, with its errno; 2 usage, or a file that is no machine.

Examples:
  dimmer pool create machine.yaml --name web --size 512M --node 0 --min 128M
  dimmer pool resize machine.yaml web 1G
  dimmer pool move machine.yaml web db 64M
  dimmer pool setattr machine.yaml web --owner www --perm app=alloc,free
  dimmer pool fallback machine.yaml web node0
  dimmer pool destroy machine.yaml web
  dimmer pool create host.dimmer -o with-pools.dimmer --name web --size 64M
  dimmer ls pools machine.yaml`,
    );
  const add = (verb: Verb, about: string, args: readonly (readonly [name: string, about: string])[]): Command => {
    const command = pool.command(verb).description(about).argument('<source>', 'a machine file, or a capture');
    for (const [name, text] of args) command.argument(name, text);
    return command
      .option('-o, --output <file>', 'write there instead')
      .option('--dry-run', 'do all but write')
      .option('--as <principal>', 'who asks', 'root')
      .option('-b, --bytes', 'sizes in bytes')
      .option('-J, --json', 'a JSON document (docs/formats/json.md)')
      .option('-q, --quiet', 'nothing on stderr');
  };
  const NAME = ['<name>', 'the pool'] as const;
  const act = (verb: Verb, source: string, options: Options, work: (w: Work) => Change): void =>
    exit(run(io, verb, source, options, work));

  attrOptions(add('create', 'Carves a pool out of zones, or out of another pool.', []))
    .requiredOption('--name <name>', 'its name')
    .requiredOption('--size <size>', 'how much: 512M, or "1024 pages"')
    .option('--zone <list>', 'zones whose frames it may have: DMA32,Normal')
    .option('--parent <pool>', 'the pool or zone to carve from')
    .option('--rule <yaml>', 'its DMA rule: "{ addr-max: { bits: 32 }, align: 64K }"')
    .option('--fallback <to[:weight]>', 'where requests go when it is empty; as often as needed', collect)
    .action((source: string, o: Options & CreateOptions) => act('create', source, o, (w) => create(w, o)));
  add('resize', 'Gives a pool more memory, or less: free memory only.', [
    NAME,
    ['<size>', 'how much it has then'],
  ]).action((source: string, name: string, size: string, o: Options) =>
    act('resize', source, o, (w) => resize(w, name, size)),
  );
  add('move', 'Moves free memory from one pool to another; a zone is a pool too (node0-Normal).', [
    ['<from>', 'the pool that gives'],
    ['<to>', 'the pool that gets'],
    ['<size>', 'how much'],
  ]).action((source: string, from: string, to: string, size: string, o: Options) =>
    act('move', source, o, (w) => move(w, from, to, size)),
  );
  add('destroy', 'Ends a pool: its memory goes back to where it was carved from.', [NAME]).action(
    (source: string, name: string, o: Options) => act('destroy', source, o, (w) => destroy(w, name)),
  );
  attrOptions(
    add('setattr', 'Changes owner, permissions, priority, guarantees, masks or class of a pool.', [NAME]),
  ).action((source: string, name: string, o: Options & AttrOptions) =>
    act('setattr', source, o, (w) => setattr(w, name, o)),
  );
  add('fallback', 'Draws an edge: requests go there when the pool is empty.', [
    NAME,
    ['<to>', 'another pool, a zone, or a node: its zones'],
    ['[weight]', 'lower ones are tried first; default 0'],
  ])
    .option('--remove', 'takes the edge away')
    .action((source: string, name: string, to: string, weight: string | undefined, o: Options & { remove?: boolean }) =>
      act('fallback', source, o, (w) => fallback(w, name, to, weight, o.remove === true)),
    );
}

const attrOptions = (command: Command): Command =>
  command
    .option('--node <list>', 'nodes whose frames it may have, home first: 1,0')
    .option('--cpus <list>', 'CPUs that may allocate: 0-3')
    .option('--min <size>', 'what nobody but its owner takes')
    .option('--low <size>', 'below this it is called low')
    .option('--max <size>', 'most that it may have')
    .option('--priority <n>', '0 to 255: shortage takes from lower ones first')
    .addOption(new Option('--class <class>', 'what it is for').choices(POOL_CLASSES))
    .option('--owner <principal>', 'who may change it, besides root')
    .option('--perm <who=what,...>', 'what another may do: alloc, free, donate, reclaim, inspect, admin', collect);

const collect = (word: string, before: readonly string[] | undefined): readonly string[] => [...(before ?? []), word];

function run(io: Io, verb: Verb, source: string, options: Options, work: (w: Work) => Change): number {
  const done = perform(io, source, options, work);
  if (!done.ok) return complain(io, done.error);
  const { target, before, after } = done.value;
  if (options.json === true) {
    const written = options.dryRun === true ? {} : { written: target };
    io.out(formatJson('pool', { verb, source, ...written, before, after }));
  } else io.out(difference(io, before, after, options.bytes === true));
  if (options.quiet !== true)
    io.err(options.dryRun === true ? 'nothing written (--dry-run)\n' : `${target}: written\n`);
  return EXIT.OK;
}

type Done = { readonly target: string; readonly before: readonly PoolEntry[]; readonly after: readonly PoolEntry[] };

function perform(io: Io, source: string, options: Options, work: (w: Work) => Change): Result<Done, Complaint> {
  const opened = openPoolStore(io, source);
  if (!opened.ok) return opened;
  const store = opened.value;
  const target = options.dryRun === true ? ok(source) : store.target(options.output);
  if (!target.ok) return target;
  const plans = store.read(store.text);
  if (!plans.ok) return usage(`${store.name}, ${plans.error.sentence}`);
  const machine = machineWith(store, plans.value);
  if (!machine.ok) return usage(`${store.name}, ${machine.error.sentence}`);
  const before = listPools(machine.value);
  const changed = work({ store, machine: machine.value, plans: plans.value, as: { as: options.as ?? 'root' } });
  if (!changed.ok) return changed;
  const after = listPools(machine.value);
  const text = editPools(store.text, changed.value);
  if (!text.ok) return usage(`${store.name}: ${text.error}`);
  const differs = differenceOfText(store, text.value, after);
  if (differs !== undefined) return failed(`${differs}; nothing was written`);
  if (options.dryRun !== true) {
    const complaint = store.write(text.value, target.value);
    if (complaint !== undefined) return err(complaint);
  }
  return ok({ target: target.value, before, after });
}

/** What a machine made from the new text would have otherwise; undefined: it has the same pools. */
function differenceOfText(store: PoolStore, text: string, wanted: readonly PoolEntry[]): string | undefined {
  const plans = store.read(text);
  const machine = plans.ok ? machineWith(store, plans.value) : plans;
  if (!machine.ok) return `the file would be refused: ${machine.error.sentence}`;
  const say = (p: PoolEntry): string => JSON.stringify([p.name, p.parent, p.size, p.min, p.priority, p.owner]);
  const there = new Set(listPools(machine.value).filter(isOfUsers).map(say));
  const lost = wanted.filter(isOfUsers).find((p) => !there.has(say(p)));
  if (lost === undefined) return undefined;
  return `a file cannot say this: a machine made from it would not have pool ${lost.name} as it is now`;
}

const isOfUsers = (p: PoolEntry): boolean => p.kind === 'user';
const usage = (sentence: string): Result<never, Complaint> => err({ exit: EXIT.USAGE, sentence });
const failed = (sentence: string): Result<never, Complaint> => err({ exit: EXIT.FAILED, sentence });
const refused = (r: Refusal): Result<never, Complaint> => failed(`${r.message} (${r.errno})`);

// ------------------------------------------------------------------------------------------------------------- verbs

function create({ store, machine, as }: Work, o: CreateOptions): Change {
  if (pools(machine).attrs(o.name) !== undefined) return failed(`pool ${o.name} exists already (EEXIST)`);
  const fields = fieldsOf(o);
  if (!fields.ok) return fields;
  const { name, size, zone, parent, fallback: edges } = o;
  const rule = o.rule === undefined ? undefined : plainOf(o.rule);
  if (rule?.ok === false) return usage(`--rule: ${rule.error}`);
  const drawn = edges?.map((edge, k): Plain => {
    const [to = '', weight] = edge.split(':');
    return { to, weight: weight === undefined ? k : plain(weight) };
  });
  const edits: PoolEdit[] = [
    {
      kind: 'add',
      fields: {
        ...fields.value,
        name,
        size,
        ...(zone === undefined ? {} : { zones: zone.split(',') }),
        ...(parent === undefined ? {} : { parent }),
        ...(rule === undefined ? {} : { rule: rule.value }),
        ...(drawn === undefined ? {} : { fallback: drawn }),
      },
    },
  ];
  const planned = planAfter(store, edits, name);
  if (!planned.ok) return planned;
  const spec = specOn(machine, planned.value);
  if (!spec.ok) return refused(spec.error);
  const made = pools(machine).create(spec.value, as);
  if (!made.ok) return refused(made.error);
  for (const { to, weight } of planned.value.fallback) {
    const edge = pools(machine).setFallback(name, to, weight, as);
    if (!edge.ok) return refused(edge.error);
  }
  return ok(edits);
}

function resize({ machine, plans, as }: Work, name: string, size: string): Change {
  const pages = pagesOfWord(size);
  if (typeof pages === 'string') return usage(`SIZE: ${pages}`);
  const before = machine.fork();
  const done = pools(machine).resize(name, pages, as);
  return done.ok ? ok(sizeEdits(plans, before, machine)) : refused(done.error);
}

function move({ machine, plans, as }: Work, from: string, to: string, size: string): Change {
  const count = pagesOfWord(size);
  if (typeof count === 'string') return usage(`SIZE: ${count}`);
  const before = machine.fork();
  const done = pools(machine).move(from, to, { count }, as);
  return done.ok ? ok(sizeEdits(plans, before, machine)) : refused(done.error);
}

function destroy({ machine, plans, as }: Work, name: string): Change {
  const before = machine.fork();
  const done = pools(machine).destroy(name, as);
  return done.ok ? ok([...sizeEdits(plans, before, machine), ...removal(plans, name)]) : refused(done.error);
}

function setattr({ store, machine, plans, as }: Work, name: string, o: AttrOptions): Change {
  const fields = fieldsOf(o);
  if (!fields.ok) return fields;
  const given = Object.entries(fields.value) as [PoolField, Plain][]; // made by fieldsOf, key by key
  if (given.length === 0) return usage('setattr changes nothing: give --owner, --perm, --priority, --min, ...');
  const isPlanned = plans.some((p) => p.spec.name === name);
  if (!isPlanned && pools(machine).stat(name).ok)
    return usage(`${name} is built in: a file has no place for its attributes`);
  if (!isPlanned) return refusedNoPool(machine, name);
  const edits = given.map(([field, value]): PoolEdit => ({ kind: 'set', pool: name, field, value }));
  const planned = planAfter(store, edits, name);
  if (!planned.ok) return planned;
  const { spec } = planned.value;
  const change = Object.fromEntries(given.map(([field]) => [field, spec[field as keyof AttrChange]])) as AttrChange;
  const done: Result<PoolStat, Refusal> = pools(machine).setattr(name, change, as);
  return done.ok ? ok(edits) : refused(done.error);
}

function fallback(
  { machine, plans, as }: Work,
  name: string,
  to: string,
  word: string | undefined,
  remove: boolean,
): Change {
  if (remove && word !== undefined) return usage('--remove takes no weight');
  if (word !== undefined && !/^\d{1,6}$/.test(word)) return usage(`WEIGHT: "${word}" is no whole number below 1000000`);
  const weight = remove ? undefined : Number(word ?? 0);
  const plan = plans.find((p) => p.spec.name === name);
  if (plan === undefined && pools(machine).stat(name).ok)
    return usage(`${name} is built in: a file has no place for its fallbacks`);
  if (plan === undefined) return refusedNoPool(machine, name);
  if (remove && !plan.fallback.some((e) => e.to === to)) return usage(`pool ${name} has no fallback to ${to}`);
  const done = pools(machine).setFallback(name, to, weight, as);
  return done.ok ? ok([edgeEdit(plan, to, weight)]) : refused(done.error);
}

/** The engine's own words for a pool that is not there. */
function refusedNoPool(machine: Machine, name: string): Result<never, Complaint> {
  const stat = pools(machine).stat(name);
  return stat.ok ? failed(`there is no pool ${name}`) : refused(stat.error);
}

// ------------------------------------------------------------------------------------------- words of the command line

const plain = (word: string): Plain => (/^\d{1,9}$/.test(word) ? Number(word) : word);

/** Options as fields of the file; what they mean is the file's reader's to say. */
function fieldsOf(o: AttrOptions): Result<Partial<Record<PoolField, Plain>>, Complaint> {
  const perms: Record<string, Plain> = {};
  for (const word of o.perm ?? []) {
    const found = /^([^=]+)=(.*)$/.exec(word);
    if (found === null) return usage(`--perm: "${word}" is not who=what,what`);
    perms[found[1] as string] = (found[2] as string).split(',').filter((w) => w !== '');
  }
  const { node, cpus, min, low, max, priority, class: cls, owner } = o;
  const fields: Partial<Record<PoolField, Plain | undefined>> = {
    nodes: node === undefined ? undefined : /^[\d,]+$/.test(node) ? node.split(',').map(plain) : node,
    cpus,
    min,
    low,
    max,
    priority: priority === undefined ? undefined : plain(priority),
    class: cls,
    owner,
    perms: o.perm === undefined ? undefined : perms,
  };
  return ok(Object.fromEntries(Object.entries(fields).filter(([, v]) => v !== undefined)));
}

/** The plan of a pool once the text is edited. What is wrong with it is told of the option that said it. */
function planAfter(store: PoolStore, edits: readonly PoolEdit[], name: string): Result<PoolPlan, Complaint> {
  const text = editPools(store.text, edits);
  if (!text.ok) return usage(`${store.name}: ${text.error}`);
  const read = store.read(text.value);
  if (!read.ok) return usage(optionSentence(read.error));
  const plan = read.value.find((p) => p.spec.name === name);
  return plan === undefined ? usage(`--name: "${name}" is no name for a pool`) : ok(plan);
}

/** "line 9, pools[2].min: 2G is ..." -> "--min: 2G is ...": the line is of a text that nobody wrote yet. */
function optionSentence({ line, field, sentence }: MachineFileProblem): string {
  const reason = sentence.slice(`line ${line}${field === '' ? '' : `, ${field}`}: `.length);
  const part = /^pools\[\d+\]\.([a-z]+)/.exec(field)?.[1];
  const option: Readonly<Record<string, string>> = { nodes: 'node', zones: 'zone', perms: 'perm' };
  return part === undefined ? reason : `--${option[part] ?? part}: ${reason}`;
}

// ------------------------------------------------------------------------------------------------------ before and after

type Row = { readonly pool: string; readonly what: string; readonly before: string; readonly after: string };

const ROWS: readonly Column<Row>[] = [
  { name: 'POOL', align: 'left', help: 'name', text: (r) => r.pool },
  { name: 'WHAT', align: 'left', help: 'attribute', text: (r) => r.what },
  { name: 'BEFORE', align: 'right', help: 'what it was', text: (r) => r.before },
  { name: 'AFTER', align: 'right', help: 'what it is', text: (r) => r.after },
];

/** Of a pool that was not there, or is no more, what says nothing. */
const SAYS_NOTHING = new Set(['', '-', '0', 'all', 'active', 'user']);

/** The figures that changed, a row for each; exact where two sizes would look the same when they are rounded. */
function difference(io: Io, before: readonly PoolEntry[], after: readonly PoolEntry[], inBytes: boolean): string {
  const names = [...new Set([...before, ...after].map((p) => p.name))];
  const exact = poolColumns(true);
  const columns = poolColumns(inBytes).map((c, k) => ({ ...c, exact: exact[k]?.text ?? c.text }));
  const rows = names.flatMap((pool): Row[] => {
    const [old, now] = [before, after].map((list) => list.find((p) => p.name === pool));
    return columns.flatMap((c): Row[] => {
      const cell = (p: PoolEntry | undefined, text: Column<PoolEntry>['text']): string =>
        p === undefined ? '' : text(p);
      const [a, b] = [cell(old, c.exact), cell(now, c.exact)];
      if (c.name === 'NAME' || a === b) return [];
      if ((old === undefined || now === undefined) && SAYS_NOTHING.has(a + b)) return [];
      const same = c.text !== c.exact && cell(old, c.text) === cell(now, c.text);
      const shown = (p: PoolEntry | undefined): string =>
        (same ? sizeWord(Number(cell(p, c.exact)) / PAGE_SIZE) : cell(p, c.text)) || '-';
      return [{ pool, what: c.name.toLowerCase(), before: shown(old), after: shown(now) }];
    });
  });
  if (rows.length === 0) return 'nothing changed\n';
  const style = { form: 'table', headings: true, colour: wantsColour(io), width: widthOf(io), chosen: false } as const;
  return formatTable(rows, ROWS, style);
}
