import { spawn } from 'node:child_process';

/**
 * Runs a command on this terminal and resolves with its exit status (130 after Ctrl-C).
 *
 * @param {string} command
 * @param {string[]} args
 * @param {string} root working directory
 * @returns {Promise<number>}
 */
export function runCommand(command, args, root) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: 'inherit' });
    // Ctrl-C reaches the child too: this process waits for it to clean up.
    const ignore = () => {};
    process.on('SIGINT', ignore);
    child.once('error', reject);
    child.once('close', (status, signal) => {
      process.off('SIGINT', ignore);
      resolve(signal === 'SIGINT' ? 130 : (status ?? 1));
    });
  });
}
