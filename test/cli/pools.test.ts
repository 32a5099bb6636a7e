// Pools on the command line: sim, ls pools, pool VERB. Rules in docs/spec/pool-files.md.

import { existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { openTree } from '../../src/cli/open-tree.ts';
import { ROOT } from '../support/source-files.ts';
import { DEMO, type Ran, runCli, scratchDirectory, unpacked } from './run-cli.ts';

const TEXT = `# a machine of ours
name: two nodes
nodes:
  - { id: 0, cpus: 0-3, ram: 2G }
  - { id: 1, cpus: 4-7, ram: 2G } # far
pools:
  - name: web # the shop
    size: 512M
    min: 128M
    nodes: [1]
    perms: { shop: [alloc, free] }

  - { name: db, size: 256M, nodes: [1], owner: postgres, fallback: [{ to: web, weight: 1 }] } # the data
  - { name: cache, size: 64M, parent: web }
# the end
`;
const PAGES = 256; // of a MiB

/** A machine file of its own for a test, and the program on it. */
function machine(text = TEXT): { file: string; read: () => string; run: (...argv: string[]) => Ran } {
  const file = join(scratchDirectory(), 'machine.yaml');
  writeFileSync(file, text);
  const run = (...argv: string[]): Ran => {
    const ran = runCli(argv.map((word) => (word === 'FILE' ? file : word)));
    return { ...ran, err: ran.err.replaceAll(file, 'machine.yaml') };
  };
  return { file, read: () => readFileSync(file, 'utf8'), run };
}

type Entry = { name: string; kind: string; parent: string; size: number; free: number; used: number; nodes: number[] };
const rowsOf = (source: string): Entry[] =>
  JSON.parse(runCli(['ls', 'pools', '-q', '--json', '--from', source]).out).rows;
const sizes = (source: string): Record<string, number> =>
  Object.fromEntries(
    rowsOf(source)
      .filter((r) => r.kind === 'user')
      .map((r) => [r.name, r.size / PAGES]),
  );

const validator = (kind: string) => {
  const closed = (s: unknown): unknown =>
    Array.isArray(s)
      ? s.map(closed)
      : typeof s !== 'object' || s === null
        ? s
        : {
            ...Object.fromEntries(Object.entries(s).map(([k, v]) => [k, closed(v)])),
            ...('properties' in s && !('additionalProperties' in s) ? { additionalProperties: false } : {}),
          };
  const schema = JSON.parse(readFileSync(join(ROOT, `docs/formats/${kind}.schema.json`), 'utf8'));
  return new Ajv2020({ strict: true, allErrors: true }).compile(closed(schema) as object);
};

describe('ls pools', () => {
  it('PF4 each pool stands below what it was carved from; nodes are the sums', async () => {
    const m = machine();
    const { code, out, err } = m.run('ls', 'pools', 'FILE');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    await expect(out).toMatchFileSnapshot('../golden/cli/ls-pools.txt');
    const rows = rowsOf(m.file);
    for (const [k, row] of rows.entries())
      if (row.parent !== '')
        expect(
          rows.slice(0, k).some((r) => r.name === row.parent),
          row.name,
        ).toBe(true);
    for (const node of rows.filter((r) => r.kind === 'node')) {
      const mine = rows.filter((r) => r.kind !== 'node' && r.nodes[0] === node.nodes[0]);
      for (const of of ['size', 'free', 'used'] as const)
        expect(
          mine.reduce((n, r) => n + r[of], 0),
          `${node.name} ${of}`,
        ).toBe(node[of]);
    }
    expect(m.run('ls', 'pools', '--from', 'FILE').out).toBe(out);
  });

  it('PF4 a capture has its nodes and zones, with page flags and without', () => {
    for (const pages of [true, false]) {
      const rows = rowsOf(unpacked(DEMO, { pages }));
      expect(rows.map((r) => r.name)).toEqual([
        'node0',
        'node0-DMA',
        'node0-DMA32',
        'node1',
        'node1-Normal',
        'node1-Movable',
      ]);
      for (const r of rows) expect(r.size, r.name).toBe(r.free + r.used);
    }
  });

  it('PF6 ls pools --json, of a machine file: what its schema says, and what the text says', () => {
    const m = machine();
    const document = JSON.parse(m.run('ls', 'pools', 'FILE', '--json').out);
    const validate = validator('ls-pools');
    expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
    expect(document.source).toMatchObject({ kind: 'machine', name: 'two nodes' });
    const raw = m.run('ls', 'pools', 'FILE', '-r', '-n', '-b', '-o', 'NAME,SIZE,FREE,MIN,OWNER').out;
    expect(raw).toBe(
      document.rows
        .map((r: Entry & { min: number; owner: string }) =>
          [r.name, r.size * 4096, r.free * 4096, r.min * 4096, r.owner].join(' '),
        )
        .join('\n')
        .concat('\n'),
    );
  });

  it('PF9 two sources, or one that is none', () => {
    const m = machine();
    expect(m.run('ls', 'pools', 'FILE', '--from', DEMO)).toMatchObject({ code: 2, out: '' });
    expect(m.run('ls', 'pools', 'none.yaml')).toEqual({
      code: 2,
      out: '',
      err: 'dimmer: none.yaml: there is no such file\n',
    });
  });
});

describe('sim, export and shell', () => {
  it('PF5 pools are listed and change no other line', async () => {
    const without = machine(TEXT.slice(0, TEXT.indexOf('pools:'))).run('sim', 'FILE').out;
    const { code, out } = machine().run('sim', 'FILE');
    expect(code).toBe(0);
    expect(out.startsWith(without)).toBe(true);
    await expect(out.slice(without.length)).toMatchFileSnapshot('../golden/cli/sim-own-pools.txt');
    const document = JSON.parse(machine().run('sim', 'FILE', '--json').out);
    const validate = validator('sim');
    expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
    expect(document.pools.map((p: Entry) => p.name)).toEqual(['web', 'cache', 'db']);
  });

  it('PF3 a pool that cannot be: one sentence with its line, for every command that boots the file', () => {
    const m = machine(TEXT.replace('size: 512M', 'size: 8G'));
    const directory = join(scratchDirectory(), 'there');
    for (const argv of [
      ['sim', 'FILE'],
      ['ls', 'pools', 'FILE'],
      ['export', directory, '--from', 'FILE'],
      ['shell', '--from', 'FILE', '-c', 'ls'],
      ['pool', 'destroy', 'FILE', 'web'],
    ]) {
      const { code, out, err } = m.run(...argv);
      expect({ code, out }, argv.join(' ')).toEqual({ code: 2, out: '' });
      expect(err).toMatch(
        /^dimmer: machine\.yaml, line 8, pools\[0\]\.size: pool web: 2097152 pages are wanted, .* \(ENOMEM\)\n$/,
      );
    }
    expect(existsSync(directory)).toBe(false);
  });
});

describe('pool', () => {
  it('PF8 create: the example of the help, and what it prints', async () => {
    const m = machine('name: one\nram: 4G\n');
    const ran = m.run('pool', 'create', 'FILE', '--name', 'web', '--size', '512M', '--node', '0', '--min', '128M');
    expect(ran).toMatchObject({ code: 0, err: 'machine.yaml: written\n' });
    await expect(ran.out).toMatchFileSnapshot('../golden/cli/pool-create.txt');
    expect(m.read()).toBe('name: one\nram: 4G\npools:\n  - name: web\n    size: 512M\n    nodes: [0]\n    min: 128M\n');
    expect(sizes(m.file)).toEqual({ web: 512 });
  });

  it('PF8 create takes every attribute', () => {
    const m = machine();
    const words =
      '--name img --size 32M --node 1,0 --zone DMA32,Normal --cpus 0-3 --min 8M --low 9M --max 64M --priority 3 ' +
      '--class guaranteed --owner joe --perm a=alloc,free --perm b=inspect --fallback web:5 --fallback db';
    const ran = m.run('pool', 'create', 'FILE', ...words.split(' '));
    expect(ran).toMatchObject({ code: 0 });
    const row = rowsOf(m.file).find((r) => r.name === 'img');
    expect(row).toMatchObject({
      parent: 'node1',
      class: 'guaranteed',
      owner: 'joe',
      priority: 3,
      nodes: [1, 0],
      zones: ['DMA32', 'Normal'],
      cpus: [0, 1, 2, 3],
      size: 32 * PAGES,
      min: 8 * PAGES,
      low: 9 * PAGES,
      max: 64 * PAGES,
      perms: { a: ['alloc', 'free'], b: ['inspect'] },
      fallback: [
        { to: 'db', weight: 1 },
        { to: 'web', weight: 5 },
      ],
    });
  });

  it('PF13 create takes a DMA rule in the words of the file', () => {
    const m = machine();
    const rule = '{ addr-max: { bits: 32 }, align: 64K }';
    expect(m.run('pool', 'create', 'FILE', '--name', 'nic', '--size', '16M', '--rule', rule)).toMatchObject({
      code: 0,
    });
    expect(m.read()).toContain(`  - name: nic\n    size: 16M\n    rule: ${rule}\n`);
    expect(rowsOf(m.file).find((r) => r.name === 'nic')).toMatchObject({ class: 'dma', parent: 'node0' });
    for (const [word, says] of [
      ['{ align: 3K }', /^dimmer: --rule: 3072 is not a power of two\n$/],
      ['{ align', /^dimmer: --rule: not YAML: /],
      ['', /^dimmer: --rule: nothing is said here\n$/],
    ] as const) {
      const ran = m.run('pool', 'create', 'FILE', '--name', 'x', '--size', '16M', '--rule', word);
      expect(ran).toMatchObject({ code: 2, out: '' });
      expect(ran.err).toMatch(says);
    }
  });

  it('PF7 PF8 resize, move, setattr, fallback, destroy: only their words change in the file', () => {
    const m = machine();
    const step = (argv: string[], before: string, after: string): void => {
      const old = m.read();
      expect(old, argv.join(' ')).toContain(before);
      expect(m.run('pool', argv[0] as string, 'FILE', ...argv.slice(1)), argv.join(' ')).toMatchObject({ code: 0 });
      expect(m.read()).toBe(old.replace(before, after));
    };
    expect(sizes(m.file)).toEqual({ web: 448, db: 256, cache: 64 });
    step(['resize', 'web', '640M'], 'size: 512M', 'size: 704M'); // cache was carved from it: 640 + 64
    expect(sizes(m.file)).toEqual({ web: 640, db: 256, cache: 64 });
    step(['resize', 'cache', '32M'], 'size: 64M', 'size: 32M'); // what it loses goes to its parent
    expect(sizes(m.file)).toEqual({ web: 672, db: 256, cache: 32 });
    step(['move', 'web', 'cache', '32M'], 'size: 32M', 'size: 64M');
    expect(sizes(m.file)).toEqual({ web: 640, db: 256, cache: 64 });
    step(['setattr', 'web', '--min', '256M'], 'min: 128M', 'min: 256M');
    step(['setattr', 'web', '--perm', 'x=alloc', '--as', 'root'], '{ shop: [alloc, free] }', '{ x: [alloc] }');
    step(
      ['fallback', 'db', 'node0', '4'],
      '{ to: web, weight: 1 }',
      '{ to: web, weight: 1 }, { to: node0, weight: 4 }',
    );
    step(['fallback', 'db', 'node0', '--remove'], ', { to: node0, weight: 4 }', '');
    step(['destroy', 'cache'], '  - { name: cache, size: 64M, parent: web }\n', '');
    expect(sizes(m.file)).toEqual({ web: 704, db: 256 });
    const old = m.read();
    expect(m.run('pool', 'destroy', 'FILE', 'web')).toMatchObject({ code: 0 });
    expect(sizes(m.file)).toEqual({ db: 256 });
    expect(m.read()).not.toContain('web'); // the edge to it went too
    expect(m.read().split('\n').slice(0, 5)).toEqual(old.split('\n').slice(0, 5));
    expect(m.read()).toMatch(/ # the data\n# the end\n$/);
  });

  it('PF8 move between siblings, and from a zone', () => {
    const m = machine(
      TEXT.replace('name: web # the shop\n', 'name: web # the shop\n    zones: [Normal]\n').replace(
        'nodes: [1], owner',
        'nodes: [1], zones: [Normal], owner',
      ),
    );
    const moved = m.run('pool', 'move', 'FILE', 'web', 'db', '64M', '-b');
    expect(moved).toMatchObject({ code: 0 });
    expect(moved.out).toMatch(new RegExp(`^web +size +${448 * 2 ** 20} +${384 * 2 ** 20}$`, 'm'));
    expect(sizes(m.file)).toEqual({ web: 384, db: 320, cache: 64 });
    expect(m.read()).toContain('size: 448M');
    expect(m.run('pool', 'move', 'FILE', 'node1-Normal', 'db', '4K')).toMatchObject({ code: 0 });
    expect(m.read()).toContain('size: 327684K');
  });

  it.each([
    [['resize', 'FILE', 'web', '64M'], 1, /^dimmer: pool web: 16384 pages are fewer than its min, 32768 \(ENOSPC\)\n$/],
    [['resize', 'FILE', 'nope', '1G'], 1, /^dimmer: there is no pool nope \(ENOENT\)\n$/],
    [['resize', 'FILE', 'web', '9G'], 1, /\(ENOMEM\)\n$/],
    [['resize', 'FILE', 'web', '9'], 2, /^dimmer: SIZE: "9" is no size: write one with its unit/],
    [['resize', 'FILE', 'node0-DMA', '1G'], 1, /\(EPERM\)\n$/],
    [['move', 'FILE', 'web', 'node0-DMA', '4K'], 1, /\(EXDEV\)\n$/],
    [['move', 'FILE', 'web', 'db', '0'], 2, /^dimmer: SIZE: a size is more than nothing\n$/],
    [['destroy', 'FILE', 'web'], 1, /^dimmer: pool web: cache was carved from it \(EBUSY\)\n$/],
    [['destroy', 'FILE', 'db', '--as', 'joe'], 1, /^dimmer: joe may not change pool db \(EPERM\)\n$/],
    [['create', 'FILE', '--name', 'web', '--size', '1M'], 1, /^dimmer: pool web exists already \(EEXIST\)\n$/],
    [
      ['create', 'FILE', '--name', 'x', '--size', '1M', '--node', '9'],
      1,
      /^dimmer: pool x: there is no node 9 \(EINVAL\)\n$/,
    ],
    [
      ['create', 'FILE', '--name', 'x', '--size', '1M', '--min', '2M'],
      2,
      /^dimmer: --min: 2M is more than the pool's size, 1M\n$/,
    ],
    [
      ['create', 'FILE', '--name', 'x', '--size', '1M', '--perm', 'joe'],
      2,
      /^dimmer: --perm: "joe" is not who=what,what\n$/,
    ],
    [
      ['create', 'FILE', '--name', 'x', '--size', '1M', '--fallback', 'y'],
      1,
      /^dimmer: there is no pool y \(ENOENT\)\n$/,
    ],
    [['create', 'FILE', '--name', '"', '--size', '1M'], 1, /is no name for a pool: .*\(EINVAL\)\n$/],
    [
      ['setattr', 'FILE', 'web', '--owner', 'joe', '--as', 'joe'],
      1,
      /^dimmer: pool web is root's, not joe's \(EACCES\)\n$/,
    ],
    [['setattr', 'FILE', 'web'], 2, /^dimmer: setattr changes nothing: give --owner/],
    [['setattr', 'FILE', 'node0-DMA', '--priority', '3'], 2, /^dimmer: node0-DMA is built in: /],
    [['setattr', 'FILE', 'nope', '--priority', '3'], 1, /^dimmer: there is no pool nope \(ENOENT\)\n$/],
    [['fallback', 'FILE', 'web', 'web'], 1, /^dimmer: pool web cannot fall back to itself \(EINVAL\)\n$/],
    [['fallback', 'FILE', 'web', 'db', 'x'], 2, /^dimmer: WEIGHT: "x" is no whole number/],
    [['fallback', 'FILE', 'web', 'db', '--remove'], 2, /^dimmer: pool web has no fallback to db\n$/],
    [['frob', 'FILE'], 2, /^dimmer: unknown command 'frob'\n$/],
    [['create', 'FILE', '--name', 'x'], 2, /^dimmer: required option '--size <size>' not specified\n$/],
    [['create', 'FILE', '--name', 'x', '--size', '1M', '-o', 'x.txt'], 2, /is no name of a machine file/],
    [
      ['create', 'FILE', '--name', 'x', '--size', '1M', '-o', '/proc/x.yaml'],
      2,
      /is a place of the kernel; nothing was written\n$/,
    ],
  ] as const)('PF9 pool %j is refused, and the file is as it was', (argv, code, says) => {
    const m = machine();
    const ran = m.run('pool', ...argv);
    expect(ran).toMatchObject({ code, out: '' });
    expect(ran.err).toMatch(/^dimmer: [^\n]+\n$/);
    expect(ran.err).toMatch(says);
    expect(m.read()).toBe(TEXT);
    expect(readdirSync(join(m.file, '..'))).toEqual(['machine.yaml']);
  });

  it('PF8 PF9 what a file cannot say is refused: a pool made anew would be carved from another node', () => {
    const m = machine();
    expect(m.run('pool', 'setattr', 'FILE', 'db', '--node', '0,1')).toEqual({
      code: 1,
      out: '',
      err: 'dimmer: a file cannot say this: a machine made from it would not have pool db as it is now; nothing was written\n',
    });
    expect(m.read()).toBe(TEXT);
    expect(m.run('pool', 'setattr', 'FILE', 'db', '--node', '1,0')).toMatchObject({ code: 0 });
    expect(m.read()).toContain('nodes: [1, 0], owner');
  });

  it('PF2 PF3 PF9 the sentences of the format’s page are the ones that are printed, for its example', () => {
    const page = readFileSync(join(ROOT, 'docs/formats/machine.md'), 'utf8');
    const example = readFileSync(join(ROOT, 'docs/guide/machines/pools.yaml'), 'utf8');
    expect(page).toContain(example.slice(example.indexOf('pools:\n')));
    const said = [
      machine(example.replace('min: 128M', 'min: 2G')).run('sim', 'FILE').err,
      machine(example.replace('nodes: [0, 1]', 'nodes: [7]')).run('sim', 'FILE').err,
      machine(example).run('pool', 'resize', 'FILE', 'web', '64M').err,
    ];
    for (const sentence of said) expect(page).toContain(sentence);
  });

  it('PF10 --dry-run writes nothing and prints the same; -o leaves the source as it was', () => {
    const m = machine();
    const argv = ['pool', 'resize', 'FILE', 'web', '640M'];
    const dry = m.run(...argv, '--dry-run');
    expect(dry).toMatchObject({ code: 0, err: 'nothing written (--dry-run)\n' });
    expect(m.read()).toBe(TEXT);
    const other = join(m.file, '../other.yaml');
    expect(m.run(...argv, '-q', '-o', other)).toEqual({ code: 0, out: dry.out, err: '' });
    expect(m.read()).toBe(TEXT);
    expect(sizes(other).web).toBe(640);
    writeFileSync(other, 'dear diary\n');
    expect(m.run(...argv, '-o', other)).toMatchObject({ code: 2, out: '' });
    expect(readFileSync(other, 'utf8')).toBe('dear diary\n');
  });

  it('PF10 a link stays one: what it points at is rewritten', () => {
    const m = machine();
    const link = join(m.file, '../link.yaml');
    symlinkSync(m.file, link);
    expect(runCli(['pool', 'destroy', link, 'cache'])).toMatchObject({ code: 0 });
    expect(m.read()).not.toContain('cache');
    expect(sizes(link)).toEqual({ web: 512, db: 256 });
  });

  it('PF6 --json is what its schema says, before and after', () => {
    const m = machine();
    const validate = validator('pool');
    for (const more of [['--dry-run'], []]) {
      const document = JSON.parse(m.run('pool', 'move', 'FILE', 'web', 'cache', '16M', '--json', ...more).out);
      expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
      expect('written' in document).toBe(more.length === 0);
      const size = (list: Entry[], name: string): number | undefined => list.find((p) => p.name === name)?.size;
      expect(size(document.before, 'cache')).toBe(64 * PAGES);
      expect(size(document.after, 'cache')).toBe(80 * PAGES);
    }
  });

  it('PF11 a capture is never changed; its copy has the pools wherever it is opened', () => {
    const directory = scratchDirectory();
    const copy = join(directory, 'with-pools.dimmer');
    const create = ['pool', 'create', DEMO, '--name', 'web', '--size', '64M', '--node', '1'];
    const before = readFileSync(DEMO);
    expect(runCli(create)).toEqual({
      code: 2,
      out: '',
      err: 'dimmer: a capture is not changed: name the copy that gets the pools, with -o\n',
    });
    expect(runCli([...create, '-q', '-o', copy])).toMatchObject({ code: 0, err: '' });
    expect(readFileSync(DEMO).equals(before)).toBe(true);
    expect(sizes(copy)).toEqual({ web: 64 });
    expect(runCli(['pool', 'resize', copy, 'web', '96M', '-q', '-o', copy]).code).toBe(0);
    expect(sizes(copy)).toEqual({ web: 96 });
    expect(sizes(unpacked(copy, { pages: true }))).toEqual({ web: 96 });
    expect(runCli(['verify', '-q', '--from', copy])).toMatchObject({ code: 0 });
    const bare = join(directory, 'bare.dimmer');
    expect(runCli(['pool', 'destroy', copy, 'web', '-q', '-o', bare]).code).toBe(0);
    const clean = join(directory, 'clean.dimmer');
    expect(runCli(['capture', '-q', '--from', DEMO, '-o', clean]).code).toBe(0);
    expect(readFileSync(bare).equals(readFileSync(clean))).toBe(true);
  });

  it('PF12 a capture whose pools cannot be made is not opened', () => {
    const copy = join(scratchDirectory(), 'copy.dimmer');
    const create = ['pool', 'create', DEMO, '--name', 'web', '--size', '64M', '-q', '-o', copy];
    expect(runCli(create).code).toBe(0);
    const there = unpacked(copy, { pages: true });
    const about = join(there, 'capture.json');
    writeFileSync(about, readFileSync(about, 'utf8').replace('size: 64M', 'size: 64G'));
    for (const argv of [['check'], ['ls', 'pools'], ['shell', '-c', 'ls']]) {
      const { code, out, err } = runCli([...argv, '-q', '--from', there]);
      expect({ code, out }).toEqual({ code: 2, out: '' });
      expect(err).toMatch(/machine, its pools: line 3, pools\[0\]\.size: pool web: .* \(ENOMEM\)\n$/);
    }
    const io = {
      out: () => {},
      err: () => {},
      env: {},
      outIsTty: false,
      errIsTty: false,
      columns: 80,
      platform: 'linux',
    };
    const mounted = openTree({ ...io, now: () => new Date(0) }, { from: there, quiet: true });
    expect(mounted).toMatchObject({ ok: false, error: { exit: 2 } }); // what `dimmer mount` mounts
    const blind = unpacked(copy, { pages: false });
    expect(runCli(['check', '-q', '--from', blind])).toMatchObject({ code: 4, out: '' });
  });
});
