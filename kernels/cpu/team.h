// The threads that help with a kernel's work, one team for all kernels of the process.
//
// OpenMP's threads are either asleep when the next kernel comes, and to wake one takes a virtual
// machine up to half a millisecond, or they spin, and whoever shares the cores with them waits. These
// spin for a moment and offer their core to others all the while. And nobody waits for one that does
// not come in time: work is taken piece by piece, and ends for all when there is none left, so that
// a helper whose core is busy with something else is missed, not waited for.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

#include <pthread.h>

namespace prelude_team {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// What `done` says within a moment (true at once, as a rule), else false.
template <class Done> inline bool comes_soon(Done done) {
    constexpr std::chrono::microseconds MOMENT(1000);
    constexpr int LOOKS = 32; // between two offers of the core
    const auto until = std::chrono::steady_clock::now() + MOMENT;
    do {
        for (int i = 0; i < LOOKS; i++, relax())
            if (done()) return true;
        std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < until);
    return false;
}

class Team {
  public:
    // Calls work() here and on up to `threads` - 1 others, which share it among themselves, taking
    // pieces until there are none. Returns when all that have begun are done.
    template <class Work> void run(int threads, const Work& work) {
        if (threads < 2) return work();
        const std::unique_lock<std::mutex> mine(in_use, std::try_to_lock);
        if (!mine) return work(); // another engine of this process has the helpers
        while (num_helpers < threads - 1) {
            std::thread(&Team::help, this).detach();
            num_helpers++;
        }
        call = [](const void* it) { (*static_cast<const Work*>(it))(); };
        what = &work;
        const Opened opened(*this, uint32_t(threads - 1));
        work();
    }

  private:
    // Of `state`: may helpers come in, how many more of them, and how many are at work.
    static constexpr uint32_t OPEN = 1u << 31, SEAT = 1u << 16, INSIDE = SEAT - 1;

    // Helpers may come in while it lives; it ends when the last of them has left.
    class Opened {
      public:
        Opened(Team& team, uint32_t seats) : of(team) {
            of.state.store(OPEN | seats * SEAT);
            if (!of.num_asleep.load()) return;
            of.bell.fetch_add(1);
            of.bell.notify_all();
        }
        ~Opened() {
            of.state.fetch_and(INSIDE);
            if (comes_soon([this] { return of.state.load() == 0; })) return;
            while (const uint32_t left = of.state.load()) of.state.wait(left);
        }
        Opened(const Opened&) = delete;

      private:
        Team& of;
    };

    void help() {
#if defined(__linux__)
        pthread_setname_np(pthread_self(), "prelude-kernels");
#endif
        for (;;) {
            if (!comes_soon([this] { return enter(); })) {
                sleep();
                continue;
            }
            call(what);
            if (state.fetch_sub(1) == 1) state.notify_one();
        }
    }

    bool enter() {
        uint32_t seen = state.load(std::memory_order_relaxed);
        return (seen & OPEN) && seen > (OPEN | INSIDE) &&
               state.compare_exchange_strong(seen, seen - SEAT + 1);
    }

    void sleep() {
        const uint32_t rung = bell.load();
        num_asleep.fetch_add(1);
        // Who opens after this look sees that somebody sleeps.
        if (!(state.load() & OPEN)) bell.wait(rung);
        num_asleep.fetch_sub(1);
    }

    alignas(64) std::atomic<uint32_t> state{0};
    void (*call)(const void*) = nullptr; // with `what`: never changed while somebody is inside
    const void* what = nullptr;
    alignas(64) std::atomic<uint32_t> bell{0};
    std::atomic<int> num_asleep{0};
    std::mutex in_use;
    int num_helpers = 0;
};

// Never destroyed: its threads outlive whatever ends first when a process does. All libraries that
// include this share it (GCC makes it unique in the process).
inline Team& team() {
    static Team* const one = new Team;
    return *one;
}

} // namespace prelude_team
