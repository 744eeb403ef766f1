// Has the page work without a network once it was loaded, from files of one and the same build.
//
// The network comes first, so a page that was built anew is seen at once. What is kept is kept whole:
// only when all files of a build are there are those of the build before removed.

const PREFIX = "seqrec-page-";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("message", (event) => {
  const [answer] = event.ports;
  const kept = keep(event.data.build, event.data.files).then(
    () => answer.postMessage({ kept: true }),
    (error) => answer.postMessage({ kept: false, reason: `${error}` }),
  );
  event.waitUntil(kept);
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(
    fetch(request).catch(async (error) => {
      const kept = await caches.match(request, { ignoreSearch: true, ignoreVary: true });
      if (!kept) throw error;
      return kept;
    }),
  );
});

/** Keep the files of a build, unless they are kept already. What is fetched here is not served here. */
async function keep(build, files) {
  const cache = await caches.open(PREFIX + build);
  if (!(await cache.match("./"))) await cache.addAll(files); // all of them or none
  for (const name of await caches.keys()) {
    if (name.startsWith(PREFIX) && name !== PREFIX + build) await caches.delete(name);
  }
}
