// Device files: what the driver core gives every device, whether it can do anything or not.
//
//   uevent    reads the event's variables (none for blocks and nodes); a known word written sends an event: nothing changes
//   power/    run-time power management of a device that has none
//
// Recorded on Linux 6.18. Follows Linux v6.12 lib/kobject_uevent.c: kobject_synth_uevent(), drivers/base/power/sysfs.c.

import { attribute, type DirNode, type FileNode, fixedDir, word } from './tree-node.ts';

const ACTIONS = ['add', 'remove', 'change', 'move', 'online', 'offline', 'bind', 'unbind'];

/** A synthetic event is asked for by its word, and a UUID and pairs behind it. Nobody listens here. */
export const ueventFile: FileNode = attribute(
  () => '',
  (text) => (ACTIONS.includes(word(text).split(' ')[0] as string) ? 'ok' : 'EINVAL'),
);

export const powerDir: DirNode = fixedDir({
  autosuspend_delay_ms: { ...attribute(() => ''), mode: 0o644, unreadable: 'EIO', unwritable: 'EIO' },
  control: attribute(
    () => 'auto\n',
    (text) => (word(text) === 'auto' ? 'ok' : 'EINVAL'),
  ),
  runtime_active_time: attribute(() => '0\n'),
  runtime_status: attribute(() => 'unsupported\n'),
  runtime_suspended_time: attribute(() => '0\n'),
});
