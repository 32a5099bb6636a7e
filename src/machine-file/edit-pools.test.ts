// Edits of a text that people wrote. Rules in docs/spec/pool-files.md.

import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { Prng } from '#base/prng';
import { editPools, type PoolEdit } from './edit-pools.ts';

const TEXT = `# a machine of ours
name:   two nodes          # odd blanks stay
nodes:
    - { id: 0,  cpus: 0-3, ram: 2G }

    - { id: 1, cpus: 4-7,   ram: 2G }   # far
# pools of the house
pools:
  # the first
  - name: web          # the shop
    size: 512M   # grows at Christmas
    fallback: [{ to: node0, weight: 1 }]

  - { name: db, size: 256M, owner: postgres }   # the data
  - { name: cache, size: 64M, parent: web }
# the end
kernel: "6.12"   # quoted
`;
const HEAD = TEXT.slice(0, TEXT.indexOf('pools:'));
const TAIL = TEXT.slice(TEXT.indexOf('# the end'));

const edited = (text: string, ...edits: PoolEdit[]): string => {
  const r = editPools(text, edits);
  if (!r.ok) throw new Error(r.error);
  return r.value;
};
const comments = (text: string): string[] => text.match(/#.*$/gm) ?? [];

describe('edits of pools in a text', () => {
  it('PF7 a value changes: its comment, all others, their order, and every byte outside of the list stay', () => {
    const text = edited(TEXT, { kind: 'set', pool: 'web', field: 'size', value: '1G' });
    expect(text.startsWith(HEAD)).toBe(true);
    expect(text.endsWith(TAIL)).toBe(true);
    expect(comments(text)).toEqual(comments(TEXT));
    expect(text).toContain(
      '    size: 1G # grows at Christmas\n    fallback: [{ to: node0, weight: 1 }]\n\n  - { name: db',
    );
  });

  it('PF7 a pool is added at the end in the style of the list, one goes with its own comments only', () => {
    const more = edited(TEXT, { kind: 'add', fields: { size: '8M', name: 'new', nodes: [1, 0] } });
    expect(more).toBe(
      edited(TEXT).replace('parent: web }\n', 'parent: web }\n  - name: new\n    size: 8M\n    nodes: [1, 0]\n'),
    );
    const less = edited(TEXT, { kind: 'remove', pool: 'db' });
    expect(comments(less)).toEqual(comments(TEXT).filter((c) => c !== '# the data'));
    const flow = edited('ram: 4G\npools: # all\n  - { name: a, size: 1M }\n', {
      kind: 'add',
      fields: { name: 'b', size: '2M' },
    });
    expect(flow).toBe('ram: 4G\npools:\n  # all\n  - { name: a, size: 1M }\n  - { name: b, size: 2M }\n');
  });

  it('PF7 the list appears with its first pool and vanishes with its last', () => {
    const add: PoolEdit = { kind: 'add', fields: { name: 'a', size: '1M' } };
    const list = 'pools:\n  - name: a\n    size: 1M\n';
    for (const [text, wanted] of [
      ['ram: 4G\n', `ram: 4G\n${list}`],
      ['ram: 4G', `ram: 4G\n${list}`],
      ['', list],
      ['ram: 4G\npools: []\nname: x\n', `ram: 4G\n${list}name: x\n`],
      ['ram: 4G\npools:\nname: x # y\n', `ram: 4G\n${list}name: x # y\n`],
      ['ram: 4G\r\n# z\r\n', `ram: 4G\n# z\n${list}`.replace(/\n/g, '\r\n')],
      ['{ ram: 4G }\n', '{ ram: 4G, pools: [ { name: a, size: 1M } ] }\n'],
    ] as const) {
      expect(edited(text, add), JSON.stringify(text)).toBe(wanted);
    }
    const gone = edited(TEXT, ...['web', 'db', 'cache'].map((pool): PoolEdit => ({ kind: 'remove', pool })));
    expect(gone).toBe(HEAD + TAIL);
  });

  it('PF7 a list or a pool that is an alias is for people to change', () => {
    const add: PoolEdit = { kind: 'add', fields: { name: 'b', size: '1M' } };
    expect(editPools('x: &p []\npools: *p\n', [add])).toEqual({
      ok: false,
      error: 'its pools are an alias: change them by hand',
    });
    const alias = 'x: &w { name: web, size: 1M }\npools:\n  - *w\n';
    expect(editPools(alias, [{ kind: 'remove', pool: 'web' }]).ok).toBe(false);
  });

  it('PF7 in any order: the text reads as the edits say, and no comment outside of a pool is lost', () => {
    for (let seed = 1; seed <= 40; seed++) {
      const rng = new Prng(seed);
      let text = TEXT;
      const model = parse(TEXT) as { pools?: Record<string, unknown>[] };
      for (let step = 0; step < 12; step++) {
        const names = (model.pools ?? []).map((p) => p.name as string);
        const pool = names.length > 0 ? rng.pick(names) : '';
        const what = names.length === 0 ? 'add' : rng.pick(['add', 'remove', 'set', 'set'] as const);
        if (what === 'add') {
          const fields = {
            name: `p${seed}-${step}`,
            size: `${rng.below(9) + 1}M`,
            nodes: [1, 0],
            perms: { a: ['free'] },
          };
          model.pools = [...(model.pools ?? []), fields];
          text = edited(text, { kind: 'add', fields });
        } else if (what === 'remove') {
          model.pools = (model.pools ?? []).filter((p) => p.name !== pool);
          if (model.pools.length === 0) delete model.pools;
          text = edited(text, { kind: 'remove', pool });
        } else {
          const value = rng.pick([
            '3G',
            5,
            [{ to: 'x: #', weight: 1 }],
            undefined,
            'a [ b ] # c',
            { joe: ['alloc'] },
          ] as const);
          const target = model.pools?.find((p) => p.name === pool) as Record<string, unknown>;
          if (value === undefined) delete target.owner;
          else target.owner = value;
          text = edited(text, { kind: 'set', pool, field: 'owner', value });
        }
        expect(parse(text), `seed=${seed} step=${step}\n${text}`).toEqual(model);
        for (const comment of ['# a machine of ours', '# far', '# pools of the house', '# the end', '# quoted'])
          expect(text, `seed=${seed} step=${step}`).toContain(comment);
      }
    }
  });
});
