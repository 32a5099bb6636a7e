import { describe, expect, it } from 'vitest';
import { treeFromFiles } from './memory-tree.ts';

describe('treeFromFiles', () => {
  const tree = treeFromFiles(
    new Map([
      ['/b/z/file', 'text'],
      ['/b/link', undefined],
      ['/b/a10', ''],
      ['/b/a9', ''],
      ['/top', 'x'],
    ]),
  );
  it('lists names sorted by code unit, implied directories and links included', () => {
    expect(tree.list('/b')).toEqual(['a10', 'a9', 'link', 'z']);
    expect(tree.list('/')).toEqual(['b', 'top']);
    expect(tree.list('/b/z')).toEqual(['file']);
  });
  it('has text for files only; what is absent is undefined or empty', () => {
    expect([tree.readText('/b/z/file'), tree.readText('/b/link'), tree.readText('/nothing')]).toEqual([
      'text',
      undefined,
      undefined,
    ]);
    expect(tree.list('/nothing')).toEqual([]);
    expect(tree.list('/top')).toEqual([]);
  });
});
