// Asks the service worker to keep the page for when there is no network.

/**
 * Keep all files of this build, and tell whether they are kept.
 *
 * Browsers have service workers for secure pages alone (https, localhost). Where there is none, or
 * no room, the page works as before, with the network.
 *
 * @param {{build: string, files: string[]}} site what site.json says
 * @returns {Promise<boolean>}
 */
export async function keepForOffline({ build, files }) {
  try {
    await navigator.serviceWorker.register("service-worker.js");
    const { active } = await navigator.serviceWorker.ready;
    const { port1, port2 } = new MessageChannel();
    const answer = new Promise((resolve) => (port1.onmessage = ({ data }) => resolve(data)));
    active.postMessage({ build, files }, [port2]);
    const { kept, reason } = await answer;
    if (!kept) console.info(`Not kept for offline use: ${reason}`);
    return kept;
  } catch (error) {
    console.info(`Not kept for offline use: ${error}`);
    return false;
  }
}
